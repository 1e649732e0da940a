//! Random segments, and what becomes of any segment on its way.

use std::net::SocketAddr;

use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Translation};

/// splitmix64: the same segments in every run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// Timestamps, selective acknowledgements, padding and unknown kinds in any order, well formed, on even places (see
    /// [`options_on_odd_places_need_the_other_way`]).
    fn options(&mut self) -> Vec<u8> {
        let mut field = Vec::new();
        let (mut stamps, mut sack) = (false, false);
        for _ in 0..self.below(6) {
            let option = match self.below(4) {
                0 if !stamps => {
                    stamps = true;
                    [vec![8, 10], self.bytes(8)].concat()
                }
                1 if !sack => {
                    sack = true;
                    let blocks = 1 + self.below(3);
                    [vec![5, 2 + 8 * blocks as u8], self.bytes(8 * blocks)].concat()
                }
                2 => {
                    let length = 2 * self.below(5);
                    [vec![[19, 28, 30, 34, 254][self.below(5)], 2 + length as u8], self.bytes(length)]
                        .concat()
                }
                _ => vec![1, 1],
            };
            if field.len() + option.len() <= 40 {
                field.extend(option);
            }
        }
        field.resize(field.len().next_multiple_of(4), [0, 1][self.below(2)]);
        field
    }

    pub(crate) fn segment(&mut self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let longest = [0, 1, 1300][self.below(3)];
        let length = self.below(longest + 1);
        let payload = self.bytes(length);
        let bits = [0, Flags::PSH.0, Flags::ECE.0, Flags::CWR.0, Flags::PSH.0 | Flags::ECE.0][self.below(5)];
        let bare = SegmentBuilder {
            seq: Seq(self.next() as u32),
            ack: Some(Seq(self.next() as u32)),
            flags: Flags(bits),
            window: self.next() as u16,
            payload: &payload,
            ..SegmentBuilder::new(source, destination)
        };
        let mut packet = with_options(bare.build(), &self.options());
        // The bit of accurate ECN (RFC 9768), beside ECE and CWR.
        let tcp = if packet[0] >> 4 == 4 { 20 } else { 40 };
        packet[tcp + 12] |= self.below(2) as u8;
        self.ip_fields(packet)
    }

    /// Traffic class with ECN's bits, identification, and now and then IPv4 options or an extension header.
    fn ip_fields(&mut self, mut packet: Vec<u8>) -> Vec<u8> {
        let odd = self.below(4) == 0;
        if packet[0] >> 4 == 4 {
            packet[1] = self.next() as u8;
            packet[4..6].copy_from_slice(&(self.next() as u16).to_be_bytes());
            if odd {
                insert(&mut packet, 20, &[1, 1, 1, 0]);
                packet[0] = 0x46;
            }
        } else {
            packet[1..4].copy_from_slice(&self.bytes(3));
            if odd {
                insert(&mut packet, 40, &[6, 0, 1, 4, 0, 0, 0, 0]);
                packet[6] = 60;
            }
        }
        packet
    }
}

fn insert(packet: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    packet.splice(at..at, bytes.iter().copied());
    let (field, length) = if packet[0] >> 4 == 6 { (4, packet.len() - 40) } else { (2, packet.len()) };
    packet[field..field + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

pub(crate) fn with_options(mut packet: Vec<u8>, field: &[u8]) -> Vec<u8> {
    let tcp = if packet[0] >> 4 == 6 { 40 } else { 20 };
    insert(&mut packet, tcp + 20, field);
    packet[tcp + 12] = ((20 + field.len()) as u8 / 4) << 4;
    packet
}

/// Right checksums: a translation that changes nothing writes them.
pub(crate) fn sealed(mut packet: Vec<u8>, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let nothing =
        Translation { source, destination, seq: 0, ack: 0, sack: 0, ts_value: 0, ts_echo: 0, rescale: None };
    nothing.apply(&mut packet).unwrap();
    packet
}

/// As it was one hop ago; the header's checksum says nothing then.
pub(crate) fn one_hop_back(packet: &[u8]) -> Vec<u8> {
    assert!(TcpSegment::parse(packet).unwrap().checksums_valid());
    let mut packet = packet.to_vec();
    let hops = if packet[0] >> 4 == 4 { 8 } else { 7 };
    packet[hops] += 1;
    without_header_checksum(packet)
}

pub(crate) fn without_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
    }
    packet
}
