//! What begins or ends a connection that conntrack has an entry of.

use super::assembler::Assembler;
use super::assembler::Operation::{Add, AddWide, And};
use super::assembler::Size::{Byte, Word};
use super::assembler::Test::{AnyBit, AtMost, Differs};
use super::hand_over::of_client;
use super::judge::{SERVER, unless_alone};
use super::program::{DIRECTION, FOUND, OLD, OLD_TCP};
use super::value;

const RESET: i32 = 0x04;
const FIN_SYN_RESET: i32 = 0x07;

/// The connection is conntrack's again; who has a record must read it first, and ends it himself. Its place is kept until conntrack
/// has forgotten it: a SYN that was answered here meanwhile would begin what conntrack takes for the old connection.
///
/// A RST that conntrack would not know for valid is handed to the owner, if there is one, whose connection ends with it.
pub(super) fn tear_down(code: &mut Assembler, answers: i32) {
    code.label("begins or ends");
    code.load(Byte, 0, FOUND, value::KIND);
    code.jump_if(AnyBit, 0, value::RECORDED.into(), "pass");
    is_exact_reset(code);
    code.jump_if(Differs, DIRECTION, 1, "both directions");
    code.calculate(AddWide, FOUND, -i32::from(SERVER));
    code.label("both directions");
    for direction in [0, SERVER] {
        code.store_value(Word, FOUND, direction + value::PEER, 0);
        code.store_value(Byte, FOUND, direction + value::KIND, value::ENDING.into());
    }
    code.jump_if(AtMost, 9, 0, "pass");
    unless_alone(code, answers);
    code.jump_if(Differs, DIRECTION, 0, "reset by server");
    of_client(code, (OLD + 12, OLD_TCP));
    code.jump("hand over");
    code.label("reset by server");
    of_client(code, (OLD + 16, OLD_TCP + 2));
}

/// Whether it has the number that the other side has acknowledged last (RFC 5961 §3.2), in register 9.
fn is_exact_reset(code: &mut Assembler) {
    code.set(9, 0);
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.calculate(And, 0, FIN_SYN_RESET);
    code.jump_if(Differs, 0, RESET, "no exact reset");
    code.jump_if(Differs, DIRECTION, 0, "of the server");
    code.load(Word, 1, FOUND, SERVER + value::LAST_ACK);
    code.jump("acknowledged");
    code.label("of the server");
    code.load(Word, 1, FOUND, value::LAST_ACK - SERVER);
    code.label("acknowledged");
    code.jump_if(AtMost, 1, 0, "no exact reset");
    code.network_order(1, 32);
    code.load(Word, 0, 10, OLD_TCP + 4);
    code.network_order(0, 32);
    code.load(Word, 2, FOUND, value::ADD);
    code.calculate_with(Add, 0, 2);
    code.jump_if_differ(0, 1, "no exact reset");
    code.set(9, 1);
    code.label("no exact reset");
}
