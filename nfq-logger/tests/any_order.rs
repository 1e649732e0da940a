//! Any order of packets, judgements, fences, disconnects and time, against rules that do not know how the engine works.

#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::control::{Flow, ToLogger};
use common::{Bench, JUDGEMENT, flow};
use nfq_logger::{Decision, Limits};
use packet::{Flags as Tcp, Time};
use proptest::prelude::*;
use segment_log::Flags;

const LIMITS: Limits = Limits { flows: 4, fences: 100, held: 5, judgement: JUDGEMENT };

#[derive(Debug, Clone)]
enum Input {
    Packet {
        flow: Flow,
        from_backend: bool,
        seq: u32,
        flags: u8,
        length: usize,
    },
    Garbage(Vec<u8>),
    Judge(u64),
    Disconnect(u64),
    /// Of the n-th hold ever.
    Judgement(usize, bool),
    Fence(Flow),
    Wait(u64),
}

fn any_flow() -> impl Strategy<Value = Flow> {
    (0u16..3, 1u8..3).prop_map(|(port, host)| flow(port, host))
}

fn input() -> impl Strategy<Value = Input> {
    // Mostly what TCP sends.
    let flags =
        prop_oneof![Just(0x10), Just(0x18), Just(0x11), Just(0x04), Just(0x02), Just(0x12), any::<u8>()];
    let packet = (any_flow(), any::<bool>(), 0u32..40, flags, 0usize..20).prop_map(
        |(flow, from_backend, seq, flags, length)| Input::Packet { flow, from_backend, seq, flags, length },
    );
    prop_oneof![
        20 => packet,
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Input::Garbage),
        2 => (0u64..3).prop_map(Input::Judge),
        1 => (0u64..3).prop_map(Input::Disconnect),
        5 => (0usize..30, any::<bool>()).prop_map(|(hold, pass)| Input::Judgement(hold, pass)),
        2 => any_flow().prop_map(Input::Fence),
        3 => (0u64..3000).prop_map(Input::Wait),
    ]
}

/// What an observer of the engine's inputs and outputs knows.
struct Observer {
    bench: Bench,
    holds: Vec<u64>,
    /// Packets without a verdict: since when, whose, under which number.
    waiting: BTreeMap<u32, (Time, Flow, u64)>,
    verdicts: BTreeSet<u32>,
    judges: BTreeSet<u64>,
    fenced: BTreeSet<Flow>,
}

impl Observer {
    fn new() -> Self {
        Self {
            bench: Bench::new(LIMITS),
            holds: Vec::new(),
            waiting: BTreeMap::new(),
            verdicts: BTreeSet::new(),
            judges: BTreeSet::new(),
            fenced: BTreeSet::new(),
        }
    }

    fn packet(&mut self, flow: Flow, from_backend: bool, seq: u32, flags: Tcp, length: usize) {
        let payload = vec![7; length];
        let decision = if from_backend {
            self.bench.back(flow, seq, flags, &payload)
        } else {
            self.bench.forth(flow, seq, flags, &payload)
        };
        let opening = !from_backend && flags.syn() && !flags.ack() && !flags.rst() && !flags.fin();
        if self.fenced.contains(&flow) {
            match decision {
                Decision::Drop => {
                    assert!(from_backend || !flags.ack() || flags.syn() || flags.rst() || length == 0);
                }
                Decision::Swallow(logged) => {
                    assert!(logged == Flags::SWALLOWED && !from_backend && length > 0 && !flags.rst());
                }
                Decision::PassUnlogged => assert!(flags.rst() && !from_backend && length == 0),
                Decision::Accept(_) => assert!(opening && self.fenced.remove(&flow)),
                Decision::Hold(..) | Decision::AcceptLeavingOut { .. } => {
                    panic!("a fenced flow's segment was logged")
                }
            }
        } else {
            assert!(!matches!(decision, Decision::PassUnlogged | Decision::Swallow(_)));
        }
        let ending = from_backend && (flags.fin() || flags.rst()) && !self.judges.is_empty();
        match decision {
            Decision::Hold(logged, hold) => {
                assert!(ending && logged.contains(Flags::HELD | Flags::FROM_BACKEND));
                assert!(self.holds.last().is_none_or(|last| *last < hold));
                self.holds.push(hold);
                self.waiting.insert(self.bench.id, (self.bench.now, flow, hold));
                return;
            }
            Decision::Accept(logged) => {
                assert!(!ending, "passed without a judgement");
                assert_eq!(logged.contains(Flags::FROM_BACKEND), from_backend);
                assert!(!logged.contains(Flags::HELD));
            }
            Decision::AcceptLeavingOut { .. } => panic!("nobody told it to"),
            Decision::Swallow(_) | Decision::Drop | Decision::PassUnlogged => {}
        }
        assert!(self.verdicts.insert(self.bench.id));
    }

    fn apply(&mut self, input: &Input) {
        let mut judged = None;
        match input {
            Input::Packet { flow, from_backend, seq, flags, length } => {
                self.packet(*flow, *from_backend, *seq, Tcp(*flags), *length);
            }
            Input::Garbage(bytes) => {
                let decision = self.bench.packet(bytes);
                assert_eq!(decision, Decision::Drop);
            }
            Input::Judge(peer) => {
                self.judges.insert(*peer);
                self.bench.engine.handle_control(*peer, &ToLogger::Judge);
            }
            Input::Disconnect(peer) => {
                self.judges.remove(peer);
                self.bench.engine.handle_disconnect(*peer);
            }
            Input::Judgement(which, pass) => {
                let Some(hold) = self.holds.get(*which).copied() else { return };
                judged = Some((hold, *pass));
                let message = if *pass { ToLogger::Release { hold } } else { ToLogger::Suppress { hold } };
                self.bench.engine.handle_control(0, &message);
            }
            Input::Fence(flow) => {
                self.fenced.insert(*flow);
                self.bench.engine.handle_control(0, &ToLogger::Fence(*flow));
            }
            Input::Wait(millis) => {
                self.bench.now = self.bench.now + Duration::from_millis(*millis);
                self.bench.engine.handle_timeout(self.bench.now);
            }
        }
        self.collect(judged);
        self.check();
    }

    /// Each held packet gets one verdict, and the right one.
    fn collect(&mut self, judged: Option<(u64, bool)>) {
        for released in self.bench.released() {
            let (since, flow, hold) = self.waiting.remove(&released.id).unwrap();
            assert!(self.verdicts.insert(released.id));
            match judged {
                Some(judgement) => assert_eq!(judgement, (hold, released.pass)),
                None if self.fenced.contains(&flow) => assert!(!released.pass, "escaped its fence"),
                None => {
                    assert!(released.pass);
                    assert!(self.judges.is_empty() || since + JUDGEMENT <= self.bench.now);
                }
            }
        }
    }

    fn check(&self) {
        let gauges: BTreeMap<_, _> = self.bench.engine.gauges().into_iter().collect();
        assert_eq!(gauges["held_now"], self.waiting.len() as u64);
        assert!(self.waiting.len() <= LIMITS.held);
        assert!(gauges["flows_now"] <= LIMITS.flows as u64);
        assert!(self.waiting.is_empty() || !self.judges.is_empty(), "held without a judge");
        assert!(self.waiting.values().all(|(_, flow, _)| !self.fenced.contains(flow)));
        let due = self.waiting.values().map(|(since, _, _)| *since + JUDGEMENT).min();
        assert_eq!(self.bench.engine.poll_timeout(), due);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_gets_one_right_verdict(inputs in prop::collection::vec(input(), 1..120)) {
        let mut observer = Observer::new();
        for input in &inputs {
            observer.apply(input);
        }
        for peer in 0..3 {
            observer.apply(&Input::Disconnect(peer));
        }
        prop_assert!(observer.waiting.is_empty());
    }
}
