//! A reader's view of the log: the bytes of every connection in order, hashed as they come.

#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use packet::{Reassembly, Seq, TcpSegment};

use super::sum::{Account, Carried, Summing};

/// Bytes beyond a gap that are kept: more than any window here.
const BEYOND: usize = 64 << 20;

struct Direction {
    stream: Reassembly,
    sum: Summing,
    fin: Option<Seq>,
}

impl Direction {
    fn new(isn: Seq) -> Self {
        Self { stream: Reassembly::new(isn + 1, BEYOND), sum: Summing::default(), fin: None }
    }

    /// True: bytes came again with other content.
    fn push(&mut self, segment: &TcpSegment<'_>) -> bool {
        if segment.flags().fin() {
            self.fin = Some(segment.seq() + segment.payload().len() as u32);
        }
        let sum = &mut self.sum;
        self.stream.push(segment.seq(), segment.payload(), &mut |piece| sum.push(piece)).conflict
    }

    fn finished(&self) -> bool {
        self.fin == Some(self.stream.next())
    }
}

struct Connection {
    isn: Seq,
    up: Direction,
    /// From the server's SYN on.
    down: Option<Direction>,
}

impl Connection {
    fn carried(&self) -> Carried {
        let down = self.down.as_ref().map(|down| down.sum.sum());
        Carried { up: self.up.sum.sum(), down: down.unwrap_or_default(), lapped: false }
    }

    fn finished(&self) -> bool {
        self.up.finished() && self.down.as_ref().is_some_and(Direction::finished)
    }
}

/// All connections of a log.
#[derive(Default)]
pub(super) struct Streams {
    open: HashMap<u16, Connection>,
    account: Account,
}

impl Streams {
    /// The next record's packet.
    pub(super) fn handle_packet(&mut self, packet: &[u8], from_server: bool) {
        self.account.records += 1;
        self.account.bytes += packet.len() as u64;
        if let Ok(segment) = TcpSegment::parse(packet) {
            self.handle_segment(&segment, from_server);
        }
    }

    fn handle_segment(&mut self, segment: &TcpSegment<'_>, from_server: bool) {
        let client = if from_server { segment.destination() } else { segment.source() };
        if segment.flags().syn() && !from_server {
            self.handle_syn(client.port(), segment.seq());
        }
        let Some(connection) = self.open.get_mut(&client.port()) else { return };
        let direction = match (from_server, segment.flags().syn()) {
            (false, _) => Some(&mut connection.up),
            (true, true) => Some(connection.down.get_or_insert_with(|| Direction::new(segment.seq()))),
            (true, false) => connection.down.as_mut(),
        };
        let conflict = direction.filter(|_| !segment.flags().syn()).is_some_and(|it| it.push(segment));
        self.account.conflicts += u64::from(conflict);
        if connection.finished() {
            self.close(client.port());
        }
    }

    fn handle_syn(&mut self, port: u16, isn: Seq) {
        if self.open.get(&port).is_some_and(|known| known.isn == isn) {
            return;
        }
        self.close(port);
        self.open.insert(port, Connection { isn, up: Direction::new(isn), down: None });
    }

    fn close(&mut self, port: u16) {
        if let Some(connection) = self.open.remove(&port) {
            self.account.connections.entry(port).or_default().push(connection.carried());
        }
    }

    /// Some records are lost: what is open can never be whole, and what follows would only be kept for ever.
    pub(super) fn handle_lapped(&mut self, records: u64, bytes: u64) {
        self.account.laps += 1;
        self.account.lost_records += records;
        self.account.lost_bytes += bytes;
        for (port, connection) in std::mem::take(&mut self.open) {
            let carried = Carried { lapped: true, ..connection.carried() };
            self.account.connections.entry(port).or_default().push(carried);
        }
    }

    pub(super) fn finish(mut self) -> Account {
        let ports: Vec<u16> = self.open.keys().copied().collect();
        for port in ports {
            self.close(port);
        }
        self.account
    }
}

#[cfg(test)]
mod tests {
    use packet::{Flags, SegmentBuilder};

    use super::super::sum::Sum;
    use super::*;

    const SYN: Flags = Flags::SYN;
    const ACK: Flags = Flags::ACK;
    const FIN: Flags = Flags::FIN.union(Flags::ACK);

    fn packet(from_server: bool, seq: u32, flags: Flags, payload: &[u8]) -> Vec<u8> {
        let ends = [([10, 0, 0, 1], 4000).into(), ([10, 0, 1, 1], 80).into()];
        let [from, to] = if from_server { [ends[1], ends[0]] } else { ends };
        SegmentBuilder { seq: Seq(seq), ack: Some(Seq(1)), flags, payload, ..SegmentBuilder::new(from, to) }
            .build()
    }

    fn sum(data: &[u8]) -> Sum {
        let mut summing = Summing::default();
        summing.push(data);
        summing.sum()
    }

    fn play(packets: &[(bool, u32, Flags, &[u8])]) -> Streams {
        let mut streams = Streams::default();
        for (from_server, seq, flags, payload) in packets {
            streams.handle_packet(&packet(*from_server, *seq, *flags, payload), *from_server);
        }
        streams
    }

    #[test]
    fn a_connection_is_summed_in_order_and_once_whatever_is_repeated() {
        let streams = play(&[
            (false, 9, SYN, b""),
            (false, 9, SYN, b""),
            (true, 99, SYN.union(ACK), b""),
            (false, 10, ACK, b"ask"),
            (true, 103, FIN, b"wer"),
            (true, 100, ACK, b"ans"),
            (true, 100, ACK, b"ans"),
            (false, 13, FIN, b""),
            (false, 50, SYN, b""),
            (false, 51, ACK, b"again"),
        ]);
        let carried = &streams.finish().connections[&4000];
        assert_eq!((carried[0].up, carried[0].down), (sum(b"ask"), sum(b"answer")));
        assert_eq!((carried[1].up, carried.len()), (sum(b"again"), 2));
    }

    #[test]
    fn what_was_open_when_records_were_lost_is_marked() {
        let mut streams = play(&[(false, 9, SYN, b"")]);
        streams.handle_lapped(3, 1000);
        let account = streams.finish();
        assert!(account.connections[&4000][0].lapped);
        assert_eq!((account.laps, account.lost_records, account.lost_bytes), (1, 3, 1000));
    }
}
