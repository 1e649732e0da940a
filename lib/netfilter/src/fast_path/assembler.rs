//! eBPF instructions put together (Linux `Documentation/bpf/standardization/instruction-set.rst`).

use std::collections::BTreeMap;

/// A register: 0 is results, 1 to 5 are arguments, 6 to 9 survive calls, 10 is the end of the stack.
pub(super) type Register = u8;

/// How many bytes a load or store moves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size {
    Byte,
    Half,
    Word,
    Double,
}

/// Arithmetic on 32 bits, the upper half of the result zero; what is called wide on 64.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Add,
    AddWide,
    Subtract,
    MultiplyWide,
    DivideWide,
    And,
    Or,
    OrWide,
    Xor,
    XorWide,
    ShiftLeft,
    ShiftLeftWide,
    ShiftRight,
    ShiftRightWide,
}

/// Comparisons of 32 bits with a number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    Differs,
    AnyBit,
    AtMost,
    /// The left side has a sign.
    Negative,
}

/// Code under construction. Jumps go forward, to labels that are set later.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<[u8; 8]>,
    jumps: Vec<(usize, &'static str)>,
    labels: BTreeMap<&'static str, usize>,
}

impl Size {
    const fn bits(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
            Self::Double => 0x18,
        }
    }
}

impl Operation {
    const fn code(self) -> u8 {
        match self {
            Self::Add => 0x04,
            Self::AddWide => 0x07,
            Self::Subtract => 0x14,
            Self::MultiplyWide => 0x27,
            Self::DivideWide => 0x37,
            Self::And => 0x54,
            Self::Or => 0x44,
            Self::OrWide => 0x47,
            Self::Xor => 0xa4,
            Self::XorWide => 0xa7,
            Self::ShiftLeft => 0x64,
            Self::ShiftLeftWide => 0x67,
            Self::ShiftRight => 0x74,
            Self::ShiftRightWide => 0x77,
        }
    }
}

impl Test {
    const fn code(self) -> u8 {
        match self {
            Self::Differs => 0x56,
            Self::AnyBit => 0x46,
            Self::AtMost => 0xb6,
            Self::Negative => 0xc6,
        }
    }
}

impl Assembler {
    fn emit(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        let [a, b] = offset.to_ne_bytes();
        let [c, d, e, f] = immediate.to_ne_bytes();
        self.code.push([code, from << 4 | to, a, b, c, d, e, f]);
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.emit(0xbf, to, from, 0, 0);
    }

    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.emit(0xb7, to, 0, 0, value);
    }

    /// `to` becomes the address of a place on the stack.
    pub(super) fn address(&mut self, to: Register, place: i16) {
        self.copy(to, 10);
        self.emit(Operation::AddWide.code(), to, 0, 0, place.into());
    }

    pub(super) fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.emit(0x61 | size.bits(), to, base, offset, 0);
    }

    pub(super) fn store(&mut self, size: Size, base: Register, offset: i16, from: Register) {
        self.emit(0x63 | size.bits(), base, from, offset, 0);
    }

    pub(super) fn store_value(&mut self, size: Size, base: Register, offset: i16, value: i32) {
        self.emit(0x62 | size.bits(), base, 0, offset, value);
    }

    /// Adds to 64 bits of memory what no other processor's addition gets lost by.
    pub(super) fn add_atomically(&mut self, base: Register, offset: i16, from: Register) {
        self.emit(0xdb, base, from, offset, 0);
    }

    pub(super) fn calculate(&mut self, operation: Operation, to: Register, value: i32) {
        self.emit(operation.code(), to, 0, 0, value);
    }

    pub(super) fn calculate_with(&mut self, operation: Operation, to: Register, from: Register) {
        self.emit(operation.code() | 0x08, to, from, 0, 0);
    }

    /// To or from network byte order.
    pub(super) fn network_order(&mut self, to: Register, bits: i32) {
        self.emit(0xdc, to, 0, 0, bits);
    }

    pub(super) fn jump(&mut self, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.emit(0x05, 0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, test: Test, left: Register, right: i32, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.emit(test.code(), left, 0, 0, right);
    }

    pub(super) fn jump_if_differ(&mut self, left: Register, right: Register, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.emit(0x5e, left, right, 0, 0);
    }

    /// A pointer that may be null.
    pub(super) fn jump_if_null(&mut self, pointer: Register, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.emit(0x15, pointer, 0, 0, 0);
    }

    /// Both 64 bits wide.
    pub(super) fn jump_if_not_below(&mut self, left: Register, right: Register, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.emit(0x3d, left, right, 0, 0);
    }

    pub(super) fn call(&mut self, helper: i32) {
        self.emit(0x85, 0, 0, 0, helper);
    }

    pub(super) fn load_map(&mut self, to: Register, map: i32) {
        self.emit(0x18, to, 1, 0, map);
        self.emit(0, 0, 0, 0, 0);
    }

    pub(super) fn exit(&mut self, result: i32) {
        self.set(0, result);
        self.leave();
    }

    /// With what register 0 holds.
    pub(super) fn leave(&mut self) {
        self.emit(0x95, 0, 0, 0, 0);
    }

    pub(super) fn label(&mut self, label: &'static str) {
        self.labels.insert(label, self.code.len());
    }

    /// The code; `None`: a jump has no or too distant a target.
    pub(super) fn finish(mut self) -> Option<Vec<[u8; 8]>> {
        for (from, label) in self.jumps {
            let distance = self.labels.get(label)?.checked_sub(from + 1)?;
            let [a, b] = i16::try_from(distance).ok()?.to_ne_bytes();
            let instruction = self.code.get_mut(from)?;
            (instruction[2], instruction[3]) = (a, b);
        }
        Some(self.code)
    }
}
