//! The handshake with clients: a SYN of the commonest form is answered, and the acknowledgement of that answer is taken. Nothing is
//! kept of either; the client's first data, which is handed to the owner, brings the proof of them. So is a backend's SYN-ACK. The numbers
//! are those of `nfq-splice/src/cookie.rs`, which see.
//!
//! Register 7 is the map of [`super::answers`], 9 the time.

use super::Maps;
use super::answers;
use super::assembler::Assembler;
use super::assembler::Operation::{
    Add, AddWide, And, DivideWide, Or, OrWide, ShiftLeft, ShiftLeftWide, ShiftRight, ShiftRightWide, Subtract,
};
use super::assembler::Register;
use super::assembler::Size::{Byte, Double, Half, Word};
use super::assembler::Test::{AnyBit, AtMost, Differs};
use super::hand_over::of_client;
use super::program::{
    FIB, FOUND, LOOKUP, NEW, NEW_TCP, OLD, OLD_TCP, TCP_LENGTH, load_bytes, look_up_host, route, sum_ip,
};
use super::siphash::hash;

const NOW: Register = 9;
const CLOCK: i32 = 5;

// On the stack, where the route is looked up later.
/// What is hashed: the client with the length of that; or the client, its number and the period, with the length.
const CLIENT: i16 = FIB;
const COOKIE: [i16; 3] = [FIB + 8, FIB + 16, FIB + 24];
const SEQUENCE_OFFSET: i16 = FIB + 32;
const CLOCK_OFFSET: i16 = FIB + 36;
const MILLISECONDS: i16 = FIB + 40;
const OPTIONS: i16 = FIB + 44;
const PERIOD: i16 = FIB + 48;
const NUMBER: i16 = FIB + 56;
const INDEX: i16 = FIB - 16;

/// What each hash is for (`nfq-splice/src/secret.rs`).
const OF_SEQUENCE: i32 = 1;
const OF_CLOCK: i32 = 2;
const OF_COOKIE: i32 = 3;
/// Bytes of what is hashed.
const CLIENT_BYTES: i32 = 15;
const COOKIE_BYTES: i32 = 27;

/// Bits of a number below the count of periods, those of options, where our scale lies, which bit says that this program answered, and how many
/// microseconds are a period (a power of two).
const LOW_BITS: i32 = 29;
const LOW: i32 = (1 << LOW_BITS) - 1;
const OPTION_BITS: i32 = 9;
const BY_PROGRAM: i32 = 1 << 13;
const PERIOD_BITS: i32 = 25;
/// The least MSS, and from which on the others count.
const LEAST_MSS: i32 = 88;
const CLASSES: [(i32, i32); 6] = [(536, 2), (1220, 3), (1360, 4), (1440, 5), (1460, 6), (8960, 7)];
/// An acknowledgement completes a handshake that is not older, milliseconds; a later one is its owner's.
const FRESH: i32 = 10_000;

/// TCP header of a SYN with MSS, timestamps and window scale, and one with timestamps alone.
const SYN_HEADER: i32 = 40;
const STAMPED_HEADER: i32 = 32;
const PUSH: i32 = 0x08;

/// For a packet of no connection that is known.
pub(super) fn handshakes(code: &mut Assembler, maps: Maps<i32>) {
    look_up(code, maps.answers);
    code.copy(FOUND, 0);
    code.call(CLOCK);
    code.load(Double, 1, FOUND, answers::UNTIL);
    code.jump_if_not_below(0, 1, "pass");
    code.copy(NOW, 0);
    for (size, at, field) in [(Word, OLD + 16, answers::SERVICE), (Half, OLD_TCP + 2, answers::SERVICE_PORT)]
    {
        code.load(size, 0, 10, at);
        code.load(size, 1, FOUND, field);
        code.jump_if_differ(0, 1, "not to the service");
    }
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.jump_if(Differs, 0, 0x02, "no SYN");
    take_syn(code);
    prepare(code);
    make_number(code);
    make_answer(code);
    count(code, maps.counts, answers::SYNS);
    code.set(TCP_LENGTH, SYN_HEADER);
    code.jump("leaves");
    code.label("no SYN");
    take_first(code);
    prepare(code);
    check_number(code);
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.jump_if(AnyBit, 0, PUSH, "first data");
    count(code, maps.counts, answers::ACKS);
    code.jump("drop");
    code.label("first data");
    of_client(code, (OLD + 12, OLD_TCP));
    code.jump("hand over");
    code.label("not to the service");
    take_syn_ack(code, maps.backends);
    of_client(code, (OLD + 16, OLD_TCP + 2));
    code.jump("hand over");
}

/// A backend's, for somebody behind this host: only its owner has sent that a SYN.
fn take_syn_ack(code: &mut Assembler, backends: i32) {
    code.load(Byte, 0, 10, OLD_TCP + 13);
    code.jump_if(Differs, 0, 0x12, "pass");
    look_up_host(code, backends, (OLD + 12, OLD_TCP));
    code.jump_if_null(0, "pass");
    route(code, OLD);
}

/// The only element of a map.
pub(super) fn look_up(code: &mut Assembler, map: i32) {
    code.store_value(Word, 10, INDEX, 0);
    code.load_map(1, map);
    code.address(2, INDEX);
    code.call(LOOKUP);
    code.jump_if_null(0, "pass");
}

pub(super) fn count(code: &mut Assembler, map: i32, of: i16) {
    look_up(code, map);
    code.set(1, 1);
    code.add_atomically(0, of, 1);
}

/// MSS, SACK-permitted or padding, timestamps, padding, window scale: as Linux puts them; no data.
fn take_syn(code: &mut Assembler) {
    code.load(Byte, 0, 10, OLD_TCP + 12);
    code.jump_if(Differs, 0, SYN_HEADER << 2, "pass");
    code.load(Half, 0, 10, OLD + 2);
    code.network_order(0, 16);
    code.jump_if(Differs, 0, 20 + SYN_HEADER, "pass");
    load_bytes(code, 54, OLD_TCP + 20, SYN_HEADER - 20);
    code.load(Half, 0, 10, OLD_TCP + 20);
    code.jump_if(Differs, 0, 0x0402, "pass");
    code.load(Half, 0, 10, OLD_TCP + 26);
    code.jump_if(Differs, 0, 0x0a08, "pass");
    code.load(Word, 0, 10, OLD_TCP + 36);
    code.calculate(And, 0, 0x00ff_ffff);
    code.jump_if(Differs, 0, 0x0003_0301, "pass");
    // Bits of the options: timestamps, SACK.
    code.set(3, 3);
    code.load(Half, 0, 10, OLD_TCP + 24);
    code.jump_if(Differs, 0, 0x0204, "no SACK");
    code.jump("SACK");
    code.label("no SACK");
    code.jump_if(Differs, 0, 0x0101, "pass");
    code.set(3, 1);
    code.label("SACK");
    code.load(Byte, 0, 10, OLD_TCP + 39);
    code.jump_if(AtMost, 0, 14, "scale");
    code.jump("pass");
    code.label("scale");
    code.calculate(ShiftLeft, 0, 2);
    code.calculate_with(Or, 3, 0);
    code.load(Half, 0, 10, OLD_TCP + 22);
    code.network_order(0, 16);
    code.jump_if(AtMost, 0, LEAST_MSS - 1, "pass");
    code.set(2, 1);
    for (least, class) in CLASSES {
        code.jump_if(AtMost, 0, least - 1, "class");
        code.set(2, class);
    }
    code.label("class");
    code.calculate(ShiftLeft, 2, 6);
    code.calculate_with(Or, 3, 2);
    code.store(Word, 10, OPTIONS, 3);
}

/// The acknowledgement alone, or with data, and timestamps as the only option.
fn take_first(code: &mut Assembler) {
    code.load(Byte, 1, FOUND, answers::TAKES_ACKS);
    code.jump_if(AtMost, 1, 0, "pass");
    code.jump_if(Differs, 0, 0x10, "more than an acknowledgement");
    code.load(Half, 1, 10, OLD + 2);
    code.network_order(1, 16);
    code.jump_if(Differs, 1, 20 + STAMPED_HEADER, "pass");
    code.set(0, 0x10 | PUSH);
    code.label("more than an acknowledgement");
    code.jump_if(Differs, 0, 0x10 | PUSH, "pass");
    code.load(Byte, 0, 10, OLD_TCP + 12);
    code.jump_if(Differs, 0, STAMPED_HEADER << 2, "pass");
    load_bytes(code, 54, OLD_TCP + 20, STAMPED_HEADER - 20);
    code.load(Word, 0, 10, OLD_TCP + 20);
    code.jump_if(Differs, 0, 0x0a08_0101, "pass");
}

/// The client as it is hashed, what is added to its numbers and clock, and the time.
fn prepare(code: &mut Assembler) {
    code.load(Word, 1, 10, OLD + 12);
    code.load(Half, 2, 10, OLD_TCP);
    code.network_order(2, 16);
    code.calculate(ShiftLeftWide, 1, 8);
    code.calculate(ShiftLeftWide, 2, 40);
    code.calculate_with(OrWide, 1, 2);
    let [first, ..] = COOKIE;
    code.store(Double, 10, first, 1);
    end_with_length(code, 1, CLIENT_BYTES);
    code.store(Double, 10, CLIENT, 1);
    code.copy(1, NOW);
    code.calculate(DivideWide, 1, 1_000_000);
    code.load(Word, 2, FOUND, answers::LEAD);
    code.calculate_with(Add, 1, 2);
    code.store(Word, 10, MILLISECONDS, 1);
    code.copy(1, NOW);
    code.calculate(DivideWide, 1, 1000);
    code.calculate(ShiftRightWide, 1, PERIOD_BITS);
    code.store(Double, 10, PERIOD, 1);
    hash(code, OF_CLOCK, &[CLIENT]);
    code.store(Word, 10, CLOCK_OFFSET, 0);
    hash(code, OF_SEQUENCE, &[CLIENT]);
    code.store(Word, 10, SEQUENCE_OFFSET, 0);
}

fn end_with_length(code: &mut Assembler, register: Register, bytes: i32) {
    code.set(2, bytes);
    code.calculate(ShiftLeftWide, 2, 56);
    code.calculate_with(OrWide, register, 2);
}

/// Register 0 becomes what an answer without options has below the count of the period that is stored, where register 1 is the client's
/// initial number.
fn authenticate(code: &mut Assembler) {
    let [first, second, third] = COOKIE;
    code.load(Double, 2, 10, first);
    code.copy(3, 1);
    code.calculate(ShiftLeftWide, 3, 56);
    code.calculate_with(OrWide, 2, 3);
    code.store(Double, 10, first, 2);
    code.calculate(ShiftRight, 1, 8);
    code.load(Double, 3, 10, PERIOD);
    code.copy(4, 3);
    code.calculate(ShiftLeftWide, 4, 24);
    code.calculate_with(OrWide, 1, 4);
    code.store(Double, 10, second, 1);
    code.calculate(ShiftRightWide, 3, 40);
    end_with_length(code, 3, COOKIE_BYTES);
    code.store(Double, 10, third, 3);
    hash(code, OF_COOKIE, &COOKIE);
    code.load(Byte, 1, FOUND, answers::SCALE);
    code.calculate(ShiftLeft, 1, OPTION_BITS);
    code.calculate(Or, 1, BY_PROGRAM);
    code.calculate_with(Add, 0, 1);
}

/// The initial number of the answer.
fn make_number(code: &mut Assembler) {
    code.load(Word, 1, 10, OLD_TCP + 4);
    code.network_order(1, 32);
    authenticate(code);
    code.load(Word, 1, 10, OPTIONS);
    code.calculate_with(Add, 0, 1);
    code.calculate(And, 0, LOW);
    code.load(Word, 1, 10, PERIOD);
    code.calculate(ShiftLeft, 1, LOW_BITS);
    code.calculate_with(Or, 0, 1);
    code.load(Word, 1, 10, SEQUENCE_OFFSET);
    code.calculate_with(Add, 0, 1);
    code.store(Word, 10, NUMBER, 0);
}

/// All but TCP's checksum; the header's is as wrong as that of the SYN.
fn make_answer(code: &mut Assembler) {
    code.store_value(Word, 10, NEW, 0x3c00_0045);
    code.store_value(Word, 10, NEW + 4, 0x0040_0000);
    code.store_value(Half, 10, NEW + 8, 0x0640);
    code.store_value(Word, 10, NEW_TCP + 12, 0x0000_12a0);
    code.store_value(Word, 10, NEW_TCP + 16, 0);
    code.store_value(Half, 10, NEW_TCP + 20, 0x0402);
    code.store_value(Half, 10, NEW_TCP + 26, 0x0a08);
    code.store_value(Word, 10, NEW_TCP + 36, 0x0003_0301);
    for (size, from, to) in [
        (Half, OLD + 10, NEW + 10),
        (Word, OLD + 16, NEW + 12),
        (Word, OLD + 12, NEW + 16),
        (Half, OLD_TCP + 2, NEW_TCP),
        (Half, OLD_TCP, NEW_TCP + 2),
        (Half, OLD_TCP + 16, NEW_TCP + 16),
        (Half, OLD_TCP + 24, NEW_TCP + 24),
        (Word, OLD_TCP + 28, NEW_TCP + 32),
    ] {
        code.load(size, 0, 10, from);
        code.store(size, 10, to, 0);
    }
    for (size, field, to) in [
        (Half, answers::WINDOW, NEW_TCP + 14),
        (Half, answers::MSS, NEW_TCP + 22),
        (Byte, answers::SCALE, NEW_TCP + 39),
    ] {
        code.load(size, 0, FOUND, field);
        code.store(size, 10, to, 0);
    }
    code.load(Word, 0, 10, NUMBER);
    code.network_order(0, 32);
    code.store(Word, 10, NEW_TCP + 4, 0);
    code.load(Word, 0, 10, OLD_TCP + 4);
    code.network_order(0, 32);
    code.calculate(Add, 0, 1);
    code.network_order(0, 32);
    code.store(Word, 10, NEW_TCP + 8, 0);
    code.load(Word, 0, 10, MILLISECONDS);
    code.load(Word, 1, 10, CLOCK_OFFSET);
    code.calculate_with(Add, 0, 1);
    code.network_order(0, 32);
    code.store(Word, 10, NEW_TCP + 28, 0);
    sum_ip(code);
}

/// Goes on if the acknowledgement is that of an answer made a moment ago.
fn check_number(code: &mut Assembler) {
    code.load(Word, 0, 10, MILLISECONDS);
    code.load(Word, 1, 10, CLOCK_OFFSET);
    code.calculate_with(Add, 0, 1);
    code.load(Word, 1, 10, OLD_TCP + 28);
    code.network_order(1, 32);
    code.calculate_with(Subtract, 0, 1);
    code.jump_if(AtMost, 0, FRESH, "fresh");
    code.jump("pass");
    code.label("fresh");
    code.load(Word, 0, 10, OLD_TCP + 8);
    code.network_order(0, 32);
    code.calculate(Add, 0, -1);
    code.load(Word, 1, 10, SEQUENCE_OFFSET);
    code.calculate_with(Subtract, 0, 1);
    code.store(Word, 10, NUMBER, 0);
    // Of this period, or of the one before.
    code.calculate(ShiftRight, 0, LOW_BITS);
    code.load(Double, 1, 10, PERIOD);
    code.copy(2, 1);
    code.calculate_with(Subtract, 2, 0);
    code.calculate(And, 2, (1 << (32 - LOW_BITS)) - 1);
    code.jump_if(AnyBit, 2, !1, "pass");
    code.jump_if(AtMost, 2, 0, "this period");
    code.calculate(AddWide, 1, -1);
    code.store(Double, 10, PERIOD, 1);
    code.label("this period");
    code.load(Word, 1, 10, OLD_TCP + 4);
    code.network_order(1, 32);
    code.calculate(Add, 1, -1);
    authenticate(code);
    code.load(Word, 1, 10, NUMBER);
    code.calculate_with(Subtract, 1, 0);
    code.calculate(And, 1, LOW);
    code.jump_if(AtMost, 1, (1 << OPTION_BITS) - 1, "answered");
    code.jump("pass");
    code.label("answered");
    code.jump_if(AnyBit, 1, 1, "with timestamps");
    code.jump("pass");
    code.label("with timestamps");
}
