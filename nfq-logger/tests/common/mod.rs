//! Segments for the engine, without a queue.
#![allow(dead_code, clippy::unwrap_used)] // Helpers of tests count as ordinary code.

pub(crate) mod network;
pub(crate) mod streams;
pub(crate) mod transfer;

use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::Flow;
use nfq_logger::{Arrival, Decision, Engine, Limits, Released};
use packet::{Flags as Tcp, SegmentBuilder, Seq, Time};
use segment_log::Flags;

pub(crate) const JUDGE: u64 = 1;
pub(crate) const JUDGEMENT: Duration = Duration::from_secs(2);

pub(crate) fn client(port: u16) -> SocketAddr {
    ([10, 0, 0, 9], port).into()
}

pub(crate) fn backend(host: u8) -> SocketAddr {
    ([10, 0, 1, host], 80).into()
}

pub(crate) fn flow(port: u16, host: u8) -> Flow {
    Flow { client: client(port), backend: backend(host) }
}

/// An engine with its clock and packet ids.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) id: u32,
}

impl Bench {
    pub(crate) fn new(limits: Limits) -> Self {
        let engine = Engine::new([backend(1), backend(2)], 1, limits);
        Self { engine, now: Time::from_millis(1000), id: 0 }
    }

    pub(crate) fn packet(&mut self, packet: &[u8]) -> Decision {
        self.id += 1;
        let arrival = Arrival { id: self.id, gso: false, verify: true, packet };
        self.engine.handle_packet(self.now, arrival)
    }

    /// Towards the backend.
    pub(crate) fn forth(&mut self, flow: Flow, seq: u32, flags: Tcp, payload: &[u8]) -> Decision {
        let packet = segment(flow.client, flow.backend, seq, flags, payload);
        self.packet(&packet)
    }

    /// Towards the client.
    pub(crate) fn back(&mut self, flow: Flow, seq: u32, flags: Tcp, payload: &[u8]) -> Decision {
        let packet = segment(flow.backend, flow.client, seq, flags, payload);
        self.packet(&packet)
    }

    pub(crate) fn released(&mut self) -> Vec<Released> {
        std::iter::from_fn(|| self.engine.poll_release()).collect()
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.engine.counters().entries().find(|(other, _)| *other == name).unwrap().1
    }
}

/// Acknowledges 1 unless it is a client's SYN.
pub(crate) fn segment(
    source: SocketAddr,
    destination: SocketAddr,
    seq: u32,
    flags: Tcp,
    payload: &[u8],
) -> Vec<u8> {
    let ack = flags.ack().then_some(Seq(1));
    SegmentBuilder { seq: Seq(seq), ack, flags, payload, ..SegmentBuilder::new(source, destination) }.build()
}

pub(crate) const SYN: Tcp = Tcp::SYN;
pub(crate) const ACK: Tcp = Tcp::ACK;
pub(crate) const RST: Tcp = Tcp::RST;
pub(crate) const FIN: Tcp = Tcp::FIN.union(Tcp::ACK);
pub(crate) const SYN_ACK: Tcp = Tcp::SYN.union(Tcp::ACK);

pub(crate) fn held(decision: Decision) -> u64 {
    let Decision::Hold(flags, hold) = decision else { panic!("{decision:?}") };
    assert!(flags.contains(Flags::HELD | Flags::FROM_BACKEND));
    assert_ne!(hold, 0);
    hold
}
