//! The program itself, for little-endian processors. Registers: 6 the packet, 7 the translation found, 8 its direction.
//!
//! Only segments of the commonest form are taken: IPv4 without options, whole; TCP with ACK, perhaps PSH or ECN's bits, and
//! timestamps as the only option where all systems put them. All others go on, unchanged.

use super::assembler::Operation::{Add, AddWide, And, ShiftLeft, ShiftRight, Xor};
use super::assembler::Size::{Byte, Double, Half, Word};
use super::assembler::Test::{AnyBit, AtMost, Differs};
use super::assembler::{Assembler, Register};
use super::hand_over::hand_over;
use super::handshake::handshakes;
use super::judge::judge;
use super::tear_down::tear_down;
use super::{Maps, Owners, value};

/// Bytes of a key: address and port of the client, and two of zero.
pub(super) const KEY: usize = 8;

pub(super) const PACKET: Register = 6;
pub(super) const FOUND: Register = 7;
pub(super) const DIRECTION: Register = 8;
/// In its place, once the new headers are made: the length of TCP's.
pub(super) const TCP_LENGTH: Register = 8;

// `struct __sk_buff`
pub(super) const SKB_LENGTH: i16 = 0;
const SKB_PACKET_TYPE: i16 = 4;
const SKB_PROTOCOL: i16 = 16;
const SKB_VLAN_PRESENT: i16 = 20;
const SKB_IFINDEX: i16 = 40;
const SKB_GSO_SIZE: i16 = 176;

// On the stack: the headers as they came and as they leave, the latter behind an Ethernet header.
pub(super) const OLD: i16 = -64;
pub(super) const OLD_TCP: i16 = OLD + 20;
pub(super) const NEW: i16 = -128;
pub(super) const NEW_TCP: i16 = NEW + 20;
const ETHERNET: i16 = NEW - 14;
pub(super) const FIB: i16 = -208;
const KEY_AT: i16 = -216;
/// Not 0: the SYN is of a client whose connection has ended, and is still in the map.
pub(super) const IN_PLACE_OF_ENDED: i16 = -232;

pub(super) const LOOKUP: i32 = 1;
const DELETE: i32 = 3;
const STORE_BYTES: i32 = 9;
const REPLACE_L4_SUM: i32 = 11;
const REDIRECT: i32 = 23;
pub(super) const LOAD_BYTES: i32 = 26;
const DIFFERENCE_OF_SUMS: i32 = 28;
const FIB_LOOKUP: i32 = 69;
pub(super) const COARSE_CLOCK: i32 = 160;

const PSEUDO_HEADER: i32 = 0x10;
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;

/// The program for the maps with these descriptors. That of the connections is the first that it names.
pub(super) fn program(maps: Maps<i32>, owners: Owners) -> Option<Vec<[u8; 8]>> {
    let mut code = Assembler::default();
    code.copy(PACKET, 1);
    code.store_value(Double, 10, IN_PLACE_OF_ENDED, 0);
    take_headers(&mut code);
    find(&mut code, maps.connections);
    judge(&mut code, maps.answers);
    translate(&mut code);
    code.set(TCP_LENGTH, 32);
    code.jump("leaves");
    code.label("unknown");
    handshakes(&mut code, maps);
    tear_down(&mut code, maps.answers);
    hand_over(&mut code, maps, owners);
    code.label("leaves");
    route(&mut code, NEW);
    forget_ended(&mut code, maps.connections);
    put_back(&mut code);
    code.label("pass");
    code.exit(TCX_NEXT);
    code.label("drop");
    code.exit(TCX_DROP);
    code.finish()
}

pub(super) fn load_bytes(code: &mut Assembler, offset: i32, place: i16, length: i32) {
    code.copy(1, PACKET);
    code.set(2, offset);
    code.address(3, place);
    code.set(4, length);
    code.call(LOAD_BYTES);
    code.jump_if(Differs, 0, 0, "pass");
}

/// For this host, without a VLAN's tag (its own interface gets it later); IPv4, no options, no fragment, TCP.
fn take_headers(code: &mut Assembler) {
    for field in [SKB_PACKET_TYPE, SKB_VLAN_PRESENT] {
        code.load(Word, 0, PACKET, field);
        code.jump_if(Differs, 0, 0, "pass");
    }
    code.load(Word, 0, PACKET, SKB_PROTOCOL);
    code.jump_if(Differs, 0, 0x0008, "pass");
    load_bytes(code, 14, OLD, 40);
    code.load(Byte, 0, 10, OLD);
    code.jump_if(Differs, 0, 0x45, "pass");
    code.load(Byte, 0, 10, OLD + 9);
    code.jump_if(Differs, 0, 6, "pass");
    code.load(Half, 0, 10, OLD + 6);
    code.jump_if(AnyBit, 0, 0xff3f, "pass");
}

/// The client is the source, and the destination the service; or it is the destination, and the source its backend.
fn find(code: &mut Assembler, map: i32) {
    look_up_host(code, map, (OLD + 12, OLD_TCP));
    code.jump_if_null(0, "not from a client");
    code.copy(FOUND, 0);
    code.set(DIRECTION, 0);
    is_peer(code, (OLD + 16, OLD_TCP + 2));
    code.jump("found");
    code.label("not from a client");
    look_up_host(code, map, (OLD + 16, OLD_TCP + 2));
    code.jump_if_null(0, "unknown");
    code.copy(FOUND, 0);
    code.calculate(AddWide, FOUND, value::VALUE as i32);
    code.set(DIRECTION, 1);
    is_peer(code, (OLD + 12, OLD_TCP));
    code.label("found");
}

/// The element of a host: its address and port are at these places.
pub(super) fn look_up_host(code: &mut Assembler, map: i32, (address, port): (i16, i16)) {
    code.load(Word, 0, 10, address);
    code.store(Word, 10, KEY_AT, 0);
    code.load(Half, 0, 10, port);
    code.store(Half, 10, KEY_AT + 4, 0);
    code.store_value(Half, 10, KEY_AT + 6, 0);
    code.load_map(1, map);
    code.address(2, KEY_AT);
    code.call(LOOKUP);
}

fn is_peer(code: &mut Assembler, (address, port): (i16, i16)) {
    code.load(Word, 0, 10, address);
    code.load(Word, 1, FOUND, value::PEER);
    code.jump_if_differ(0, 1, "pass");
    code.load(Half, 0, 10, port);
    code.load(Half, 1, FOUND, value::PEER_PORT);
    code.jump_if_differ(0, 1, "pass");
}

/// Makes the new headers, all but the TCP checksum.
fn translate(code: &mut Assembler) {
    for at in (0..48).step_by(8) {
        code.load(Double, 0, 10, OLD + at);
        code.store(Double, 10, NEW + at, 0);
    }
    code.load(Word, 0, 10, OLD + 48);
    code.store(Word, 10, NEW + 48, 0);
    code.load(Byte, 0, 10, NEW + 8);
    code.calculate(Add, 0, -1);
    code.store(Byte, 10, NEW + 8, 0);
    code.load(Word, 0, FOUND, value::NEW);
    code.load(Half, 1, FOUND, value::NEW_PORT);
    code.jump_if(Differs, DIRECTION, 0, "to client");
    code.store(Word, 10, NEW + 16, 0);
    code.store(Half, 10, NEW_TCP + 2, 1);
    code.jump("addressed");
    code.label("to client");
    code.store(Word, 10, NEW + 12, 0);
    code.store(Half, 10, NEW_TCP, 1);
    code.label("addressed");
    for (field, offset) in [(4, 0), (8, 4), (24, 8), (28, 12)] {
        code.load(Word, 0, 10, NEW_TCP + field);
        code.network_order(0, 32);
        code.load(Word, 1, FOUND, value::ADD + offset);
        code.calculate_with(Add, 0, 1);
        code.network_order(0, 32);
        code.store(Word, 10, NEW_TCP + field, 0);
    }
    rescale(code);
    sum_ip(code);
}

/// A window that the new scale cannot express is rounded down, but never from some to none.
fn rescale(code: &mut Assembler) {
    code.load(Half, 0, 10, NEW_TCP + 14);
    code.network_order(0, 16);
    code.jump_if(AtMost, 0, 0, "window closed");
    code.load(Byte, 1, FOUND, value::SCALE_FROM);
    code.calculate_with(ShiftLeft, 0, 1);
    code.load(Byte, 1, FOUND, value::SCALE_TO);
    code.calculate_with(ShiftRight, 0, 1);
    code.jump_if(AtMost, 0, 0xffff, "not too large");
    code.set(0, 0xffff);
    code.label("not too large");
    code.jump_if(Differs, 0, 0, "not too small");
    code.set(0, 1);
    code.label("not too small");
    code.network_order(0, 16);
    code.store(Half, 10, NEW_TCP + 14, 0);
    code.label("window closed");
}

/// RFC 1624: a wrong checksum stays wrong.
pub(super) fn sum_ip(code: &mut Assembler) {
    code.load(Half, 5, 10, OLD + 10);
    code.calculate(Xor, 5, 0xffff);
    code.set(2, 20);
    difference(code, (OLD, NEW));
    for _ in 0..2 {
        code.copy(1, 0);
        code.calculate(ShiftRight, 1, 16);
        code.calculate(And, 0, 0xffff);
        code.calculate_with(Add, 0, 1);
    }
    code.calculate(Xor, 0, 0xffff);
    code.store(Half, 10, NEW + 10, 0);
}

/// Register 5 holds what to begin with, 2 the number of bytes.
fn difference(code: &mut Assembler, (old, new): (i16, i16)) {
    code.copy(4, 2);
    code.address(1, old);
    code.address(3, new);
    code.call(DIFFERENCE_OF_SUMS);
}

/// Where the kernel would send a packet with the headers at this place: on which wire, to whom. Where it would not, or only after asking
/// for a neighbour, or not in one piece, the old one goes the long way.
pub(super) fn route(code: &mut Assembler, headers: i16) {
    let tcp = headers + 20;
    let several = if headers == NEW { "several leave" } else { "several come" };
    for at in (0..64).step_by(8) {
        code.store_value(Double, 10, FIB + at, 0);
    }
    code.store_value(Byte, 10, FIB, 2);
    code.store_value(Byte, 10, FIB + 1, 6);
    for (size, field, to) in [
        (Half, tcp, 2),
        (Half, tcp + 2, 4),
        (Byte, headers + 1, 12),
        (Word, headers + 12, 16),
        (Word, headers + 16, 32),
    ] {
        code.load(size, 0, 10, field);
        code.store(size, 10, FIB + to, 0);
    }
    code.load(Word, 0, PACKET, SKB_GSO_SIZE);
    code.calculate(Add, 0, 52);
    code.jump_if(Differs, 0, 52, several);
    code.load(Half, 0, 10, OLD + 2);
    code.network_order(0, 16);
    code.label(several);
    code.store(Half, 10, FIB + 6, 0);
    code.load(Word, 0, PACKET, SKB_IFINDEX);
    code.store(Word, 10, FIB + 8, 0);
    code.copy(1, PACKET);
    code.address(2, FIB);
    code.set(3, 64);
    code.set(4, 0);
    code.call(FIB_LOOKUP);
    code.jump_if(Differs, 0, 0, "pass");
}

/// Writes the headers into the packet and sends it.
fn put_back(code: &mut Assembler) {
    for (from, to) in [(58, 0), (60, 2), (62, 4), (52, 6), (54, 8), (56, 10)] {
        code.load(Half, 0, 10, FIB + from);
        code.store(Half, 10, ETHERNET + to, 0);
    }
    code.store_value(Half, 10, ETHERNET + 12, 0x0008);
    code.copy(1, PACKET);
    code.set(2, 0);
    code.address(3, ETHERNET);
    code.copy(4, TCP_LENGTH);
    code.calculate(Add, 4, 34);
    code.set(5, 0);
    code.call(STORE_BYTES);
    code.jump_if(Differs, 0, 0, "pass");
    code.set(5, 0);
    code.set(2, 8);
    difference(code, (OLD + 12, NEW + 12));
    replace_sum(code, PSEUDO_HEADER);
    code.set(5, 0);
    code.copy(2, TCP_LENGTH);
    difference(code, (OLD_TCP, NEW_TCP));
    replace_sum(code, 0);
    code.load(Word, 1, 10, FIB + 8);
    code.set(2, 0);
    code.call(REDIRECT);
    code.leave();
}

fn replace_sum(code: &mut Assembler, flags: i32) {
    code.copy(4, 0);
    code.copy(1, PACKET);
    code.set(2, 50);
    code.set(3, 0);
    code.set(5, flags);
    code.call(REPLACE_L4_SUM);
    code.jump_if(Differs, 0, 0, "drop");
}

/// The new one begins.
fn forget_ended(code: &mut Assembler, map: i32) {
    code.load(Double, 0, 10, IN_PLACE_OF_ENDED);
    code.jump_if(AtMost, 0, 0, "nothing in its place");
    delete_found(code, map);
    code.label("nothing in its place");
}

/// With the key with which it was found.
fn delete_found(code: &mut Assembler, map: i32) {
    code.load_map(1, map);
    code.address(2, KEY_AT);
    code.call(DELETE);
}
