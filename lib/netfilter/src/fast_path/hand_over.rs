//! Packets that only their owner can do anything with are handed to him as they are, in a ring that he reads, instead of being
//! looked at by conntrack and rules and queued: the whole packet from IP's header on, for that of his threads that has the client.
//! Where a ring is full, or the packet longer than a place in it, it goes the long way.

use super::assembler::Operation::{
    Add, AddWide, And, MultiplyWide, Or, ShiftLeft, ShiftRight, ShiftRightWide, Subtract, Xor,
};
use super::assembler::Size::{Half, Word};
use super::assembler::Test::{AtMost, Differs};
use super::assembler::{Assembler, Register};
use super::handshake::count;
use super::program::{FOUND, LOAD_BYTES, LOOKUP, OLD, PACKET};
use super::ring::{MOST, PLACE};
use super::{Maps, Owners, answers};

const RESERVE: i32 = 131;
const SUBMIT: i32 = 132;
const DISCARD: i32 = 133;

/// In the place of what is no longer needed.
const INDEX: i16 = OLD - 8;
const LENGTH: Register = 8;
const RECORD: Register = FOUND;

/// `JHASH_INITVAL` of `include/linux/jhash.h`.
const INITIAL: u32 = 0xdead_beef;
/// `__jhash_final`: of the registers 1 to 3, the first is mixed with the second, rotated by so many bits.
const FINAL: [(Register, Register, i32); 7] =
    [(3, 2, 14), (1, 3, 11), (2, 1, 25), (3, 2, 16), (1, 3, 4), (2, 1, 14), (3, 2, 24)];

/// Whose packet is to be handed over: the address and port at these places.
pub(super) fn of_client(code: &mut Assembler, (address, port): (i16, i16)) {
    code.load(Word, 1, 10, address);
    code.load(Half, 2, 10, port);
}

/// Expects the client in registers 1 and 2.
pub(super) fn hand_over(code: &mut Assembler, maps: Maps<i32>, owners: Owners) {
    code.label("hand over");
    choose(code, owners);
    code.load(Half, LENGTH, 10, OLD + 2);
    code.network_order(LENGTH, 16);
    // Linux 6.12's verifier does not see that it has only sixteen bits.
    code.calculate(And, LENGTH, 0xffff);
    code.jump_if(AtMost, LENGTH, 39, "pass");
    code.jump_if(AtMost, LENGTH, MOST as i32, "fits");
    code.jump("pass");
    code.label("fits");
    code.load_map(1, maps.rings);
    code.address(2, INDEX);
    code.call(LOOKUP);
    code.jump_if_null(0, "pass");
    code.copy(1, 0);
    code.set(2, PLACE as i32);
    code.set(3, 0);
    code.call(RESERVE);
    code.jump_if_null(0, "pass");
    code.copy(RECORD, 0);
    code.store(Word, RECORD, 0, LENGTH);
    code.copy(1, PACKET);
    code.set(2, 14);
    code.copy(3, RECORD);
    code.calculate(AddWide, 3, (PLACE - MOST) as i32);
    code.copy(4, LENGTH);
    code.call(LOAD_BYTES);
    code.copy(1, RECORD);
    code.set(2, 0);
    code.jump_if(Differs, 0, 0, "shorter than it says");
    code.call(SUBMIT);
    count(code, maps.counts, answers::HANDED_OVER);
    code.jump("drop");
    code.label("shorter than it says");
    code.call(DISCARD);
    code.jump("pass");
}

/// As the rules do (`jhash()` of two words, `reciprocal_scale()`).
fn choose(code: &mut Assembler, owners: Owners) {
    let start = INITIAL.wrapping_add(8).wrapping_add(owners.seed);
    code.set(3, start as i32);
    code.calculate_with(Add, 1, 3);
    code.calculate_with(Add, 2, 3);
    for (to, from, bits) in FINAL {
        code.calculate_with(Xor, to, from);
        code.copy(4, from);
        code.calculate(ShiftLeft, 4, bits);
        code.copy(5, from);
        code.calculate(ShiftRight, 5, 32 - bits);
        code.calculate_with(Or, 4, 5);
        code.calculate_with(Subtract, to, 4);
    }
    code.calculate(MultiplyWide, 3, owners.threads.into());
    code.calculate(ShiftRightWide, 3, 32);
    code.store(Word, 10, INDEX, 3);
}
