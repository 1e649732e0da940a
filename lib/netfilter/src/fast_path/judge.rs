//! Which segments are taken, and who hears of them.

use super::assembler::Assembler;
use super::assembler::Operation::{Add, AddWide, And, Or, Subtract};
use super::assembler::Size::{Byte, Double, Half, Word};
use super::assembler::Test::{AnyBit, AtMost, Differs, Negative};
use super::handshake::look_up;
use super::program::{
    COARSE_CLOCK, DIRECTION, FOUND, IN_PLACE_OF_ENDED, OLD, OLD_TCP, PACKET, SKB_LENGTH, load_bytes,
};
use super::{answers, value};

/// Where the server's side is kept, of a client's.
pub(super) const SERVER: i16 = value::VALUE as i16;
/// Bytes before the data of a segment that is taken, with the Ethernet header.
const HEADERS: i32 = 14 + 20 + 32;

/// Segments of the commonest form, to which a hop is left. What begins or ends a connection is not taken, but for the FIN of
/// one that is recorded to its end.
pub(super) fn judge(code: &mut Assembler, answers: i32) {
    begins_anew(code);
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.jump_if(AnyBit, 0, 0x06, "begins or ends");
    code.load(Byte, 1, FOUND, value::KIND);
    code.jump_if(AnyBit, 1, value::TO_ITS_END.into(), "may close");
    code.jump_if(AnyBit, 0, 0x01, "begins or ends");
    code.label("may close");
    code.calculate(And, 0, 0x30);
    code.jump_if(Differs, 0, 0x10, "pass");
    code.load(Byte, 0, 10, OLD_TCP + 12);
    code.calculate(And, 0, 0xf0);
    code.jump_if(Differs, 0, 0x80, "pass");
    code.load(Byte, 0, 10, OLD + 8);
    code.jump_if(AtMost, 0, 1, "pass");
    load_bytes(code, 54, OLD_TCP + 20, 12);
    code.load(Word, 0, 10, OLD_TCP + 20);
    code.jump_if(Differs, 0, 0x0a08_0101, "pass");
    code.load(Byte, 0, FOUND, value::KIND);
    code.jump_if(AnyBit, 0, value::RECORDED.into(), "recorded");
    show_acknowledgement(code, answers);
    show_now_and_then(code, "to conntrack");
    code.jump("taken");
    code.label("recorded");
    show_now_and_then(code, "to its owner");
    record(code);
    code.label("taken");
}

/// A client's SYN, where both sides have closed and lack nothing ([`super::Kept::has_ended`]), is treated as one of no connection. If it is
/// answered, the old one leaves the map: its owner finds nothing of it.
fn begins_anew(code: &mut Assembler) {
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.jump_if(Differs, 0, 0x02, "goes on");
    code.jump_if(Differs, DIRECTION, 0, "goes on");
    code.load(Byte, 0, FOUND, value::KIND);
    code.calculate(And, 0, value::TO_ITS_END.into());
    code.jump_if(AtMost, 0, 0, "goes on");
    for (side, other) in [(0, SERVER), (SERVER, 0)] {
        code.load(Byte, 0, FOUND, side + value::FILLED);
        code.calculate(And, 0, (value::HAS_RECORD | value::HAS_FIN).into());
        code.jump_if(Differs, 0, (value::HAS_RECORD | value::HAS_FIN).into(), "goes on");
        code.load(Word, 1, FOUND, side + value::END);
        code.load(Word, 2, FOUND, side + value::FIN_END);
        code.jump_if_differ(1, 2, "goes on");
        code.load(Word, 2, FOUND, other + value::ACK);
        code.load(Word, 3, FOUND, other + value::ADD + 4);
        code.calculate_with(Add, 2, 3);
        code.jump_if_differ(1, 2, "goes on");
    }
    code.store_value(Double, 10, IN_PLACE_OF_ENDED, 1);
    code.jump("unknown");
    code.label("goes on");
}

/// Conntrack must see what a server acknowledges, to know a valid RST of the client (RFC 5961); the first time, or it would take any. Later the
/// owner, if there is one, is handed that RST ([`super::tear_down`]).
fn show_acknowledgement(code: &mut Assembler, answers: i32) {
    code.load(Word, 0, 10, OLD_TCP + 8);
    code.load(Word, 1, FOUND, value::LAST_ACK);
    code.store(Word, FOUND, value::LAST_ACK, 0);
    code.jump_if(Differs, DIRECTION, 1, "acknowledges nothing new");
    code.jump_if_differ(0, 1, "acknowledges something new");
    code.jump("acknowledges nothing new");
    code.label("acknowledges something new");
    code.jump_if(AtMost, 1, 0, "pass");
    unless_alone(code, answers);
    code.label("acknowledges nothing new");
}

/// The owner is there, and says so again and again; otherwise the packet passes. Register 9 is not kept.
pub(super) fn unless_alone(code: &mut Assembler, map: i32) {
    look_up(code, map);
    code.copy(9, 0);
    code.call(COARSE_CLOCK);
    code.load(Double, 1, 9, answers::OWNED_UNTIL);
    code.jump_if_not_below(0, 1, "pass");
}

/// Whoever forgets what he does not see sees something now and then.
fn show_now_and_then(code: &mut Assembler, lately: &'static str) {
    code.call(COARSE_CLOCK);
    code.load(Double, 1, FOUND, value::SHOW_AT);
    code.jump_if_not_below(1, 0, lately);
    code.load(Double, 2, FOUND, value::SHOW_EVERY);
    code.calculate_with(AddWide, 0, 2);
    code.store(Double, FOUND, value::SHOW_AT, 0);
    code.jump("pass");
    code.label(lately);
}

/// What its owner will have to know of the segments that he does not see. Of a server's the newest numbers count; a client's may be
/// forged, and a forged one must not stay: there it is the latest.
fn record(code: &mut Assembler) {
    code.load(Word, 1, 10, OLD_TCP + 4);
    code.network_order(1, 32);
    code.load(Word, 0, PACKET, SKB_LENGTH);
    code.calculate_with(Add, 1, 0);
    code.calculate(Add, 1, -HEADERS);
    record_fin(code);
    code.load(Word, 2, 10, OLD_TCP + 8);
    code.network_order(2, 32);
    code.set(3, 0);
    code.jump_if(Differs, DIRECTION, 1, "of the client");
    code.load(Byte, 3, FOUND, value::FILLED);
    code.calculate(And, 3, value::HAS_RECORD.into());
    code.label("of the client");
    unless_older(code, value::END, 1, ("new end", "old end"));
    code.store(Word, FOUND, value::END, 1);
    code.label("old end");
    unless_older(code, value::ACK, 2, ("new ack", "old ack"));
    code.store(Word, FOUND, value::ACK, 2);
    code.load(Half, 0, 10, OLD_TCP + 14);
    code.store(Half, FOUND, value::WINDOW, 0);
    code.label("old ack");
    record_timestamps(code);
    code.load(Byte, 0, FOUND, value::FILLED);
    code.calculate(Or, 0, value::HAS_RECORD.into());
    code.store(Byte, FOUND, value::FILLED, 0);
}

/// They stand in the record as they came. One that was overtaken has an older one than its client was told.
fn record_timestamps(code: &mut Assembler) {
    code.jump_if_null(3, "new stamp");
    code.load(Word, 4, 10, OLD_TCP + 24);
    code.network_order(4, 32);
    code.load(Word, 5, FOUND, value::STAMP);
    code.network_order(5, 32);
    code.calculate_with(Subtract, 4, 5);
    code.jump_if(Negative, 4, 0, "old stamp");
    code.label("new stamp");
    for (field, to) in [(24, value::STAMP), (28, value::STAMP_ECHO)] {
        code.load(Word, 0, 10, OLD_TCP + field);
        code.store(Word, FOUND, to, 0);
    }
    code.label("old stamp");
}

/// Register 1 is one after the segment's data, and then one after its FIN.
fn record_fin(code: &mut Assembler) {
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.calculate(And, 0, 1);
    code.jump_if(AtMost, 0, 0, "stays open");
    code.calculate(Add, 1, 1);
    code.store(Word, FOUND, value::FIN_END, 1);
    code.load(Byte, 0, FOUND, value::FILLED);
    code.calculate(Or, 0, value::HAS_FIN.into());
    code.store(Byte, FOUND, value::FILLED, 0);
    code.label("stays open");
}

/// Jumps to `old` if register `new` is less than what is recorded at `field`, and there is something (register 3).
fn unless_older(code: &mut Assembler, field: i16, new: u8, (is_new, is_old): (&'static str, &'static str)) {
    code.jump_if_null(3, is_new);
    code.copy(4, new);
    code.load(Word, 5, FOUND, field);
    code.calculate_with(Subtract, 4, 5);
    code.jump_if(Negative, 4, 0, is_old);
    code.label(is_new);
}
