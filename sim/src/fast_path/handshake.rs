//! The handshake that the program conducts (`lib/netfilter/src/fast_path/handshake.rs`), written a second time from what is
//! promised of its numbers (`nfq-splice/src/cookie.rs`) and of the form of what it takes (`docs/network.md`).

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use netfilter::fast_path::Answers;
use siphasher::sip::SipHasher24;

use super::translation::{SUM_OF_IP, SUM_OF_TCP, correct};
use super::{FLAGS, address, half, word};

const IP: usize = 20;
/// TCP headers, bytes: of a SYN with MSS, SACK-permitted, timestamps and window scale; with timestamps alone.
const SYN_HEADER: usize = 40;
const ACK_HEADER: usize = 32;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;

/// Where Linux puts options.
const MSS: [u8; 2] = [2, 4];
const SACK_PERMITTED: [u8; 2] = [4, 2];
const PADDING: [u8; 2] = [1, 1];
const STAMPS: [u8; 2] = [8, 10];
const SCALE: [u8; 3] = [1, 3, 3];

/// What each hash is for.
const OF_SEQUENCE: u8 = 1;
const OF_CLOCK: u8 = 2;
const OF_COOKIE: u8 = 3;

/// A period, microseconds; the bits of its numbers, below those that count periods.
const PERIOD: u128 = 1 << 25;
const LOW_BITS: u32 = 29;
const LOW: u32 = (1 << LOW_BITS) - 1;
const PERIODS: u32 = (1 << 3) - 1;
/// In the number of an answer: that the program made it. The scale announced is above the options' nine bits.
const BY_PROGRAM: u32 = 1 << 13;
/// The least MSS of each class, from 1 on.
const CLASSES: [u16; 7] = [88, 536, 1220, 1360, 1440, 1460, 8960];
/// No older acknowledgement is taken, milliseconds.
const FRESH: u32 = 10_000;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is the answer to itself now.
    Answered,
    /// It is the acknowledgement of an answer.
    Acknowledged,
    /// It is the first that a client says after that.
    Spoken,
}

/// An answer for this client at this time.
struct Proof<'a> {
    answers: &'a Answers,
    client: SocketAddrV4,
    now: Duration,
}

/// A whole TCP segment of no connection that is known. `None`: it is left alone.
pub(super) fn conduct(answers: &Answers, now: Duration, packet: &mut [u8]) -> Option<Done> {
    if address(packet, 16, IP + 2) != answers.service || now >= answers.until {
        return None;
    }
    let proof = Proof { answers, client: address(packet, 12, IP), now };
    match packet[FLAGS] {
        SYN => proof.answer(packet).then_some(Done::Answered),
        ACK if usize::from(half(packet, 2)) == IP + ACK_HEADER => {
            (answers.takes_acks && proof.is_acknowledged_by(packet)).then_some(Done::Acknowledged)
        }
        flags if flags == ACK | PUSH => {
            (answers.takes_acks && proof.is_acknowledged_by(packet)).then_some(Done::Spoken)
        }
        _ => None,
    }
}

/// A SYN-ACK for somebody behind this host, while SYNs are answered.
pub(super) fn is_backends_answer(
    answers: &Answers,
    now: Duration,
    packet: &[u8],
    backends: &BTreeSet<SocketAddr>,
) -> bool {
    let (source, destination) = (address(packet, 12, IP), address(packet, 16, IP + 2));
    now < answers.until
        && destination != answers.service
        && packet[FLAGS] == SYN | ACK
        && backends.contains(&source.into())
}

/// A header of so many bytes, whatever follows.
fn has_header(packet: &[u8], header: usize) -> bool {
    packet[32] == (header as u8) << 2 && packet.len() >= IP + header
}

/// No data, and a header of so many bytes.
fn is_bare(packet: &[u8], header: usize) -> bool {
    has_header(packet, header) && usize::from(half(packet, 2)) == IP + header
}

/// The options in a SYN as a cookie keeps them.
fn offered(packet: &[u8]) -> Option<u32> {
    let sack_permitted = match packet[44..46].try_into() {
        Ok(SACK_PERMITTED) => 2,
        Ok(PADDING) => 0,
        _ => return None,
    };
    let in_order = packet[40..42] == MSS && packet[46..48] == STAMPS && packet[56..59] == SCALE;
    let (mss, scale) = (half(packet, 42), packet[59]);
    let class = CLASSES.iter().filter(|least| **least <= mss).count() as u32;
    (in_order && class > 0 && scale <= 14).then_some(class << 6 | u32::from(scale) << 2 | sack_permitted | 1)
}

impl Proof<'_> {
    fn answer(&self, packet: &mut [u8]) -> bool {
        let options = if is_bare(packet, SYN_HEADER) { offered(packet) } else { None };
        let Some(options) = options else { return false };
        let before: Vec<u8> = packet[..IP + SYN_HEADER].to_vec();
        let irs = word(packet, 24);
        let low = self.code(irs, self.period()).wrapping_add(options) & LOW;
        let number =
            ((self.period() as u32) << LOW_BITS | low).wrapping_add(self.hash(OF_SEQUENCE, &[]) as u32);
        let write = |packet: &mut [u8], at: usize, bytes: &[u8]| {
            packet[at..at + bytes.len()].copy_from_slice(bytes);
        };
        write(packet, 0, &[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6]);
        write(packet, 12, &before[16..20]);
        write(packet, 16, &before[12..16]);
        write(packet, 20, &before[22..24]);
        write(packet, 22, &before[20..22]);
        write(packet, 24, &number.to_be_bytes());
        write(packet, 28, &irs.wrapping_add(1).to_be_bytes());
        write(packet, 32, &[(SYN_HEADER as u8) << 2, SYN | ACK]);
        write(packet, 34, &self.answers.window.to_be_bytes());
        write(packet, 38, &[0, 0]);
        write(packet, 42, &self.answers.mss.to_be_bytes());
        write(packet, 48, &self.clock().to_be_bytes());
        write(packet, 52, &before[48..52]);
        write(packet, 59, &[self.answers.window_scale.min(14)]);
        correct(packet, &before, SUM_OF_IP, 0..IP);
        correct(packet, &before, SUM_OF_TCP, 12..IP + SYN_HEADER);
        true
    }

    fn is_acknowledged_by(&self, packet: &[u8]) -> bool {
        if !has_header(packet, ACK_HEADER) || packet[40..44] != [PADDING, STAMPS].concat() {
            return false;
        }
        let fresh = self.clock().wrapping_sub(word(packet, 48)) <= FRESH;
        let number = word(packet, 28).wrapping_sub(1).wrapping_sub(self.hash(OF_SEQUENCE, &[]) as u32);
        let age = (self.period() as u32).wrapping_sub(number >> LOW_BITS) & PERIODS;
        let period = self.period().wrapping_sub(age.into());
        let options = (number & LOW).wrapping_sub(self.code(word(packet, 24).wrapping_sub(1), period)) & LOW;
        fresh && age <= 1 && options < 1 << 9 && options & 1 != 0
    }

    fn period(&self) -> u64 {
        (self.now.as_micros() / PERIOD) as u64
    }

    fn clock(&self) -> u32 {
        let clock = (self.now.as_millis() as u32).wrapping_add(self.answers.lead);
        clock.wrapping_add(self.hash(OF_CLOCK, &[]) as u32)
    }

    /// What nobody else can compute of a client's initial number, and what was promised.
    fn code(&self, irs: u32, period: u64) -> u32 {
        let scale = u32::from(self.answers.window_scale.min(14));
        let code = self.hash(OF_COOKIE, &[&irs.to_ne_bytes(), &period.to_ne_bytes()]) as u32;
        code.wrapping_add(BY_PROGRAM | scale << 9)
    }

    /// Of the client and what else there is.
    fn hash(&self, purpose: u8, about: &[&[u8]]) -> u64 {
        // As the standard library hashes an address: that it is of version 4 comes first.
        let (ip, port) = (self.client.ip().octets(), self.client.port().to_ne_bytes());
        let bytes = [&[purpose], &[0; 8][..], &ip, &port, &about.concat()].concat();
        SipHasher24::new_with_key(&self.answers.key).hash(&bytes)
    }
}
