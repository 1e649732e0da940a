//! The fast path, and what the daemon's shell does around it (`nfq-splice/src/shell/{fast,kernel}.rs`): it is told of splices, asked what
//! went past, and outlives the daemon.

use netfilter::conntrack::SpliceEntry;
use netfilter::fast_path::{Passed, Recorded};
use packet::{Flags, SegmentBuilder};
use sim::fast_path::Fate;

use super::*;

/// The daemon sees a segment of each side so often.
const SHOWN_EVERY: Duration = Duration::from_secs(60);
/// Where smoltcp puts timestamps, and where all others do.
const FIRST: [u8; 2] = [8, 10];
const USUAL: [u8; 4] = [1, 1, 8, 10];

pub(super) fn since_boot(now: Time) -> Duration {
    Duration::from_nanos(now.as_nanos())
}

fn entry_of(splice: &KernelSplice) -> SpliceEntry {
    SpliceEntry {
        client: splice.client,
        service: service(),
        backend: splice.backend,
        server_offset: splice.delta,
        client_offset: 0,
        timestamp_offset: splice.timestamps.unwrap_or(0).wrapping_neg(),
        has_timestamps: splice.timestamps.is_some(),
        mark: 0,
        timeout_s: 0,
        window_scales: splice.window_scales,
        sack_permitted: splice.sack_permitted,
    }
}

fn splice_of(entry: &SpliceEntry) -> KernelSplice {
    KernelSplice {
        client: entry.client,
        backend: entry.backend,
        delta: entry.server_offset,
        timestamps: entry.has_timestamps.then(|| entry.timestamp_offset.wrapping_neg()),
        window_scales: entry.window_scales,
        sack_permitted: entry.sack_permitted,
    }
}

/// Timestamps that are the only option, moved behind their padding.
pub(super) fn in_its_usual_place(mut packet: Vec<u8>) -> Vec<u8> {
    let options = if packet.first().is_some_and(|first| first >> 4 == 4) { 40 } else { 60 };
    let alone = packet.get(options - 8).is_some_and(|offset| offset >> 4 == 8);
    let valid = |packet: &[u8]| TcpSegment::parse(packet).is_ok_and(|segment| segment.checksums_valid());
    if alone && packet.get(options..options + 2) == Some(&FIRST[..]) && valid(&packet) {
        packet.copy_within(options + 2..options + 10, options + 4);
        packet[options..options + 4].copy_from_slice(&USUAL);
        packet::fill_checksum(&mut packet).unwrap();
    }
    packet
}

impl World {
    pub(super) fn goes_fast(&mut self, packet: &mut [u8]) -> Fate {
        let fate = self.fast.receive(since_boot(self.now), packet, |_, _| true);
        self.fast_packets += u64::from(fate == Fate::Translated);
        fate
    }

    /// What has just become the kernel's.
    pub(super) fn speed_up(&mut self, splice: &KernelSplice) {
        let passed = self.fast.take(splice.client);
        if passed.iter().flatten().any(|side| side.fin) {
            self.kernel.entries.remove(&splice.client);
            self.engine.handle_splice_failed(self.now, splice.client);
            self.tell_passed(splice.client, passed);
        } else if self.scenario.fast_path {
            self.fast.add(&entry_of(splice));
        }
    }

    /// False: the fast path does not take it.
    fn speed_up_parked(&mut self, parked: &Parked, to_its_end: bool) -> bool {
        let show = (since_boot(self.now) + SHOWN_EVERY, SHOWN_EVERY);
        let recorded = Recorded { rescale: parked.rescale(), to_its_end, rest: parked.rest(), show };
        self.scenario.fast_path && self.fast.add_recorded(&entry_of(&parked.splice), &recorded)
    }

    pub(super) fn hasten(&mut self, parked: &Parked) {
        let client = parked.splice.client;
        if self.rng.chance(self.scenario.refusals) || !self.speed_up_parked(parked, true) {
            self.note(|| format!("the fast path does not take {client}"));
            self.engine.handle_recalled(self.now, client);
        } else {
            self.young += 1;
            self.note(|| format!("the fast path takes {client}"));
        }
    }

    pub(super) fn look(&mut self, client: ClientAddress) {
        let Some(passed) = self.fast.look(client) else {
            self.note(|| format!("{client} was displaced on the fast path"));
            return self.engine.handle_displaced(self.now, client);
        };
        self.tell_passed(client, passed);
        self.engine.handle_looked(self.now, client);
    }

    pub(super) fn recall(&mut self, client: ClientAddress) {
        let passed = self.fast.take(client);
        self.tell_passed(client, passed);
        self.engine.handle_recalled(self.now, client);
    }

    pub(super) fn park(&mut self, parked: &Parked) {
        let kept = Parked { clock: parked.clock, ..Parked::new(parked.splice, parked.rest()) };
        self.kernel.parked.insert(parked.splice.client, kept);
    }

    pub(super) fn record(&mut self, parked: &Parked) {
        self.speed_up_parked(parked, false);
    }

    /// Its packets are queued before conntrack from now on.
    pub(super) fn suspend(&mut self, client: ClientAddress) {
        let passed = self.fast.keep_off(client);
        self.kernel.queued.insert(client);
        self.tell_passed(client, passed);
    }

    /// Before the engine gets this packet.
    pub(super) fn before_packet(&mut self, packet: &[u8]) -> Option<ClientAddress> {
        let client = self.engine.passed_by(packet)?;
        let ends = TcpSegment::parse(packet).is_ok_and(|segment| {
            let flags = segment.flags();
            flags.syn() && !flags.ack() || flags.fin() || flags.rst()
        });
        let passed = if ends {
            self.fast.set_aside(client)
        } else {
            let found = self.fast.look(client);
            self.engine.handle_place(client, found.is_some());
            found.unwrap_or_default()
        };
        self.tell_passed(client, passed);
        ends.then_some(client)
    }

    /// Before the engine is told to do something about this client's connection.
    pub(super) fn before_order(&mut self, client: ClientAddress) {
        let passed = self.fast.set_aside(client);
        self.tell_passed(client, passed);
    }

    pub(super) fn tell_passed(&mut self, client: ClientAddress, [of_client, of_server]: [Option<Passed>; 2]) {
        for (passed, from, to) in [(of_server, service(), client), (of_client, client, service())] {
            if let Some(Passed { end, fin, ack, window, timestamps }) = passed {
                self.note(|| format!("passed of {from}: {passed:?}"));
                let segment = SegmentBuilder {
                    seq: Seq(end) - u32::from(fin),
                    ack: Some(Seq(ack)),
                    flags: if fin { Flags::FIN } else { Flags(0) },
                    window,
                    timestamps: Some(timestamps),
                    ..SegmentBuilder::new(from, to)
                };
                self.engine.handle_passed(self.now, &segment.build());
            }
        }
    }

    /// What an earlier daemon had left to the fast path alone; another map takes its place.
    pub(super) fn replace_fast_path(&mut self) -> Vec<(Parked, [Option<Passed>; 2])> {
        self.answered_before = self.answered();
        let earlier = std::mem::take(&mut self.fast).kept().into_iter().filter(|kept| !kept.has_ended());
        earlier.map(|kept| (Parked::new(splice_of(&kept.entry), kept.rest), kept.passed)).collect()
    }

    /// It would go on without a daemon.
    pub(super) fn is_kept_fast(&self, client: ClientAddress) -> bool {
        self.fast.kept().iter().any(|kept| kept.entry.client == client)
    }

    pub(super) fn start_engine(&self) -> Engine {
        let mut engine = Engine::new(Settings::new(&self.scenario.cluster), self.secret());
        if self.scenario.fast_path {
            engine.handle_fast_path();
        }
        engine
    }
}

#[test]
fn timestamps_are_moved() {
    let [from, to] = ["192.0.2.1:7", "192.0.2.2:80"].map(|address| address.parse().unwrap());
    let usual =
        SegmentBuilder { timestamps: Some((7, 8)), payload: b"data", ..SegmentBuilder::new(from, to) }
            .build();
    let mut first = usual.clone();
    first.copy_within(42..52, 40);
    first[50..52].fill(0);
    packet::fill_checksum(&mut first).unwrap();
    assert_eq!(in_its_usual_place(first), usual);
}
