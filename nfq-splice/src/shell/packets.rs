//! From a queued packet to its verdict. Large ones of a userspace splice are injected instead.

use netfilter::Error;
use netfilter::inject::Injector;
use netfilter::queue::{QueuedPacket, Verdict as QueueVerdict, Verdicts};
use nfq_splice::{Engine, Stage, Verdict};
use nft_rules::{BEFORE_CONNTRACK_MARK, FRESH_MARK, INJECTION_DEVICE};
use packet::{TcpSegment, Time};

/// From this length on, bytes, a packet of several segments is injected: of smaller ones a verdict with their bytes costs less.
const LARGE: usize = 8192;

/// What a shard needs to answer for packets.
pub(super) struct Packets {
    injector: Option<Injector>,
    bad_checksums: u64,
    injected: u64,
}

impl Packets {
    /// Without the device, all packets get verdicts.
    pub(super) fn open() -> Self {
        let injector = Injector::open(INJECTION_DEVICE)
            .inspect_err(|error| tracing::info!(%error, "large packets are not injected"))
            .ok();
        Self { injector, bad_checksums: 0, injected: 0 }
    }

    /// Gives one packet its verdict.
    pub(super) fn handle(
        &mut self,
        engine: &mut Engine,
        packet: QueuedPacket<'_>,
        time: Time,
        verdicts: &mut Verdicts,
    ) -> Result<(), Error> {
        let stage = self.stage(&packet);
        let QueuedPacket { id, gso, checksum_ready, checksum_verified, payload, .. } = packet;
        let unverified = checksum_ready && !checksum_verified && !gso;
        if unverified && !packet::checksums_valid(payload) {
            self.bad_checksums += 1;
            return verdicts.push(id, QueueVerdict::Drop);
        }
        let verdict = match engine.handle_packet(time, payload, stage) {
            Verdict::Drop => QueueVerdict::Drop,
            Verdict::Untouched => QueueVerdict::Accept,
            Verdict::Segments(bytes) if self.inject(payload, bytes, verdicts) => QueueVerdict::Drop,
            Verdict::Segments(_) if packet::fill_checksum(payload).is_err() => QueueVerdict::Drop,
            Verdict::Rewritten | Verdict::Segments(_) => QueueVerdict::AcceptWith(payload),
        };
        verdicts.push(id, verdict)
    }

    /// One that the fast path's program handed over: it is gone from the network, as if it had been queued and dropped.
    pub(super) fn take(&mut self, engine: &mut Engine, payload: &mut [u8], time: Time) {
        let right = TcpSegment::parse(payload)
            .is_ok_and(|segment| segment.checksum_is_open() || segment.checksums_valid());
        if right {
            engine.handle_handed_over(time, payload);
        } else {
            self.bad_checksums += 1;
        }
    }

    /// For operators.
    pub(super) fn counters(&self) -> [(String, u64); 2] {
        [
            ("bad_checksum_dropped".to_owned(), self.bad_checksums),
            ("packets_injected".to_owned(), self.injected),
        ]
    }

    fn stage(&self, packet: &QueuedPacket<'_>) -> Stage {
        let large = packet.gso && !packet.checksum_ready && packet.payload.len() >= LARGE;
        match packet.mark {
            BEFORE_CONNTRACK_MARK if large && self.injector.is_some() => Stage::Large,
            BEFORE_CONNTRACK_MARK => Stage::Raw,
            FRESH_MARK => Stage::Fresh,
            _ => Stage::Tracked,
        }
    }

    /// What came before it leaves before it.
    fn inject(&mut self, payload: &[u8], segment: u16, verdicts: &mut Verdicts) -> bool {
        let Some(injector) = &self.injector else { return false };
        let done = verdicts.flush().and_then(|()| injector.inject(payload, segment));
        self.injected += u64::from(done.is_ok());
        done.inspect_err(|error| tracing::debug!(%error, "not injected")).is_ok()
    }
}
