//! SipHash-2-4 (Aumasson and Bernstein, 2012) as instructions: registers 0 to 3 hold its state, 4 and 5 are used.

use super::answers;
use super::assembler::Operation::{AddWide, OrWide, ShiftLeftWide, ShiftRightWide, XorWide};
use super::assembler::Size::Double;
use super::assembler::{Assembler, Register};
use super::program::FOUND;

/// The state before the first block, of a key.
pub(super) fn initial(key: [u8; 16]) -> [u64; 4] {
    let [low, high] = [0, 8].map(|at: usize| {
        key.get(at..).and_then(|half| half.first_chunk()).map_or(0, |half| u64::from_le_bytes(*half))
    });
    let (a, b) = (0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d);
    let (c, d) = (0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573);
    [low ^ a, high ^ b, low ^ c, high ^ d]
}

/// Register 0 becomes the hash of a block that holds `first`, and of those at these places on the stack, with the key whose state
/// is in the map. The last one must end with the message's length.
pub(super) fn hash(code: &mut Assembler, first: i32, blocks: &[i16]) {
    for register in 0..4_u8 {
        code.load(Double, register, FOUND, answers::STATE + 8 * i16::from(register));
    }
    code.set(5, first);
    compress(code);
    for place in blocks {
        code.load(Double, 5, 10, *place);
        compress(code);
    }
    code.set(5, 0xff);
    code.calculate_with(XorWide, 2, 5);
    for _ in 0..4 {
        round(code);
    }
    for register in 1..4 {
        code.calculate_with(XorWide, 0, register);
    }
}

fn compress(code: &mut Assembler) {
    code.calculate_with(XorWide, 3, 5);
    round(code);
    round(code);
    code.calculate_with(XorWide, 0, 5);
}

fn round(code: &mut Assembler) {
    add_rotate_xor(code, (0, 1), 13);
    rotate(code, 0, 32);
    add_rotate_xor(code, (2, 3), 16);
    add_rotate_xor(code, (0, 3), 21);
    add_rotate_xor(code, (2, 1), 17);
    rotate(code, 2, 32);
}

fn add_rotate_xor(code: &mut Assembler, (one, other): (Register, Register), bits: i32) {
    code.calculate_with(AddWide, one, other);
    rotate(code, other, bits);
    code.calculate_with(XorWide, other, one);
}

fn rotate(code: &mut Assembler, register: Register, bits: i32) {
    code.copy(4, register);
    code.calculate(ShiftLeftWide, register, bits);
    code.calculate(ShiftRightWide, 4, 64 - bits);
    code.calculate_with(OrWide, register, 4);
}
