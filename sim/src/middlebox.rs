//! What routers, firewalls and cards do to segments that pass them: options taken out, moved and added, segments cut anew,
//! congestion marked. Nothing of it may make a difference.

use packet::{Flags, TcpOption, TcpSegment, checksum};

use crate::rng::Rng;

const SACK_PERMITTED: u8 = 4;
const WINDOW_SCALE: u8 = 3;
const NOP: u8 = 1;
/// Of an experiment (RFC 6994).
const UNKNOWN: [u8; 6] = [253, 6, 0xca, 0xfe, 1, 2];
/// TCP options at most, bytes.
const OPTIONS: usize = 40;

/// What happens on one host's access.
#[derive(Debug, Clone, Copy, Default)]
pub struct Middlebox {
    /// From both sides' SYN: the host's stack seems to know none.
    pub no_scale: bool,
    pub no_sack: bool,
    /// Options in another order, an unknown one before them.
    pub odd_options: bool,
    /// ECN is asked for and marked.
    pub ecn: bool,
    /// Per mille of segments that are cut in two.
    pub cut: u64,
}

impl Middlebox {
    /// The packets that come out for `packet`.
    pub fn pass(&self, rng: &mut Rng, packet: Vec<u8>) -> Vec<Vec<u8>> {
        let Ok(segment) = TcpSegment::parse(&packet) else { return vec![packet] };
        if !segment.checksums_valid() {
            return vec![packet];
        }
        let options = self.options(&segment);
        let payload = segment.payload();
        let cuts = !segment.flags().syn() && payload.len() > 1 && rng.chance(self.cut);
        let at = if cuts { 1 + rng.below(payload.len() as u64 - 1) as usize } else { payload.len() };
        let last = segment.flags();
        let first = if cuts { Flags(last.0 & !(Flags::FIN.0 | Flags::PSH.0)) } else { last };
        let mut out = vec![self.rebuilt(rng, &packet, &options, 0, &payload[..at], first)];
        if cuts {
            out.push(self.rebuilt(rng, &packet, &options, at as u32, &payload[at..], last));
        }
        out
    }

    fn options(&self, segment: &TcpSegment<'_>) -> Vec<u8> {
        let mut options: Vec<Vec<u8>> = Vec::new();
        for TcpOption { kind, data, .. } in segment.options() {
            let taken_out = segment.flags().syn()
                && (self.no_scale && kind == WINDOW_SCALE || self.no_sack && kind == SACK_PERMITTED);
            if !taken_out {
                options.push([&[kind, data.len() as u8 + 2], data].concat());
            }
        }
        if self.odd_options {
            options.reverse();
            options.insert(0, vec![NOP]);
            if options.concat().len() + UNKNOWN.len() <= OPTIONS {
                options.insert(0, UNKNOWN.to_vec());
            }
        }
        let mut field = options.concat();
        field.resize(field.len().next_multiple_of(4), NOP);
        field
    }

    fn rebuilt(
        &self,
        rng: &mut Rng,
        packet: &[u8],
        options: &[u8],
        advance: u32,
        payload: &[u8],
        flags: Flags,
    ) -> Vec<u8> {
        let v4 = packet[0] >> 4 == 4;
        let tcp = if v4 { 20 } else { 40 };
        let mut out = [&packet[..tcp + 20], options, payload].concat();
        let seq = u32::from_be_bytes(out[tcp + 4..tcp + 8].try_into().unwrap()).wrapping_add(advance);
        out[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
        out[tcp + 12] = ((20 + options.len()) as u8 / 4) << 4;
        out[tcp + 13] = flags.0;
        if self.ecn {
            mark(rng, &mut out, v4, tcp, flags);
        }
        seal(&mut out, v4, tcp);
        out
    }
}

/// ECE and CWR in a SYN ask for ECN, elsewhere they answer a mark (RFC 3168 §6.1).
fn mark(rng: &mut Rng, packet: &mut [u8], v4: bool, tcp: usize, flags: Flags) {
    let both = flags.syn() && !flags.ack();
    packet[tcp + 13] |= if both { 0xc0 } else { rng.pick(&[0, 0, 0x40, 0x80]) };
    let field = rng.pick(&[1, 2, 2, 3]);
    if v4 {
        packet[1] |= field;
    } else {
        packet[1] |= field << 4;
    }
}

pub(crate) fn seal(packet: &mut [u8], v4: bool, tcp: usize) {
    let bytes = (packet.len() - if v4 { 0 } else { 40 }) as u16;
    let (at, addresses) = if v4 { (2, 12..20) } else { (4, 8..40) };
    packet[at..at + 2].copy_from_slice(&bytes.to_be_bytes());
    if v4 {
        packet[10..12].fill(0);
        let sum = checksum::ipv4_header(&packet[..20]);
        packet[10..12].copy_from_slice(&sum);
    }
    packet[tcp + 16..tcp + 18].fill(0);
    let sum = checksum::tcp(&packet[addresses], &packet[tcp..]);
    packet[tcp + 16..tcp + 18].copy_from_slice(&sum);
}
