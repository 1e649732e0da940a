//! What all states share: settings, the actions collected so far, counters.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use cluster::config::{Cluster, ProtocolName, SplicePath};
use cluster::control::Client;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Time};

use crate::action::Action;
use crate::answered::Answered;
use crate::counters::Counters;
use crate::learnt::Learnt;
use crate::leg::{BackendLeg, ClientLeg};
use crate::resets::Resets;
use crate::routing::Routing;
use crate::secret::Secret;
use crate::sender::Piece;
use crate::stateless::Stateless;

/// Resets and challenge acknowledgements sent to strangers per second at most.
const STRANGERS_PER_SECOND: u32 = 200;

/// The part of the configuration that the engine uses.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The virtual address and port.
    pub service: SocketAddr,
    /// Requests are HTTP's: routed by what is asked. Of other protocols each connection goes to a backend at once.
    pub http: bool,
    /// Routes, pools, backends.
    pub routing: Routing,
    /// `[splice]`.
    pub splice: cluster::config::Splice,
    /// Resets and challenge acknowledgements sent to strangers per second at most.
    pub strangers_per_second: u32,
    /// `[recovery] timeout_ms`.
    pub recovery_timeout: Duration,
}

impl Settings {
    /// From a checked configuration.
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            service: cluster.service.address,
            http: cluster.service.protocol == ProtocolName::Http,
            routing: Routing::new(cluster),
            splice: cluster.splice.clone(),
            strangers_per_second: STRANGERS_PER_SECOND,
            recovery_timeout: Duration::from_millis(cluster.recovery.timeout_ms),
        }
    }

    /// Makes way for `new`; `used` are the backends that have connections.
    pub(crate) fn replace(&mut self, new: Self, used: &BTreeSet<SocketAddr>) {
        let before = std::mem::replace(self, new);
        let routing = std::mem::replace(&mut self.routing, before.routing);
        self.routing.replace(routing, used);
    }
}

/// Shared by the states of all connections.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) now: Time,
    pub(crate) secret: Secret,
    pub(crate) actions: VecDeque<Action>,
    /// Clients whose alternates are owed an acknowledgement.
    pub(crate) owed_acks: Vec<SocketAddr>,
    /// Counts how often all actions have been taken out, from 1.
    pub(crate) round: u32,
    pub(crate) counters: Counters,
    /// The window scale that the backends were last seen to use.
    pub(crate) learnt_scale: Option<u8>,
    /// The one announced before: clients in set-up may have been told it.
    pub(crate) former_scale: Option<u8>,
    pub(crate) learnt: Learnt,
    pub(crate) stateless: Stateless,
    pub(crate) answered: Answered,
    /// There is a fast path.
    pub(crate) fast_path: bool,
    /// Resets of clients that may have to be repeated.
    pub(crate) resets: Resets,
    /// What the time of day was, and when.
    pub(crate) time_of_day: Option<(Time, Duration)>,
    /// Bytes of requests that are not with a backend yet.
    pub(crate) setup_bytes: usize,
    strangers: (u64, u32),
    /// The present second, and ICMP errors looked at in it.
    pub(crate) icmp_errors: (u64, u32),
}

impl Core {
    pub(crate) fn new(settings: Settings, secret: Secret) -> Self {
        Self {
            settings,
            now: Time::default(),
            secret,
            actions: VecDeque::new(),
            owed_acks: Vec::new(),
            round: 1,
            counters: Counters::default(),
            learnt_scale: None,
            former_scale: None,
            learnt: Learnt::default(),
            stateless: Stateless::default(),
            answered: Answered::default(),
            fast_path: false,
            resets: Resets::default(),
            time_of_day: None,
            setup_bytes: 0,
            strangers: (0, 0),
            icmp_errors: (0, 0),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// What `decide` wants done is done before what was wanted earlier and is not done yet.
    pub(crate) fn first(&mut self, decide: impl FnOnce(&mut Self)) {
        let earlier = std::mem::take(&mut self.actions);
        decide(self);
        let wanted = std::mem::replace(&mut self.actions, earlier);
        for action in wanted.into_iter().rev() {
            self.actions.push_front(action);
        }
    }

    pub(crate) fn send(&mut self, packet: Vec<u8>) {
        self.act(Action::Send(packet));
    }

    /// The window scale to announce.
    pub(crate) fn scale(&self) -> u8 {
        self.learnt_scale.unwrap_or(self.settings.splice.window_scale)
    }

    /// A backend uses this scale.
    pub(crate) fn learn_scale(&mut self, scale: u8) {
        if self.scale() != scale {
            self.former_scale = Some(self.scale());
        }
        self.learnt_scale = Some(scale);
    }

    /// The longest segment of all, with options, bytes.
    pub(crate) fn mss(&self) -> u16 {
        self.settings.splice.mss
    }

    /// The MSS to announce: no more than any backend takes, as far as they are known.
    pub(crate) fn announced_mss(&self) -> u16 {
        let most = self.most_announced_mss();
        self.learnt.least_mss().map_or(most, |mss| mss.min(most))
    }

    /// The same, whatever the backends take: `splice.mss` is that of IPv4, and IPv6's header is 20 bytes longer.
    pub(crate) fn most_announced_mss(&self) -> u16 {
        self.mss().saturating_sub(if self.settings.service.is_ipv6() { 20 } else { 0 })
    }

    pub(crate) fn prefers_kernel(&self) -> bool {
        self.settings.splice.path == SplicePath::Kernel
    }

    /// The client whose connection a segment concerns, and whether it comes from there.
    pub(crate) fn side_of(&self, segment: &TcpSegment<'_>) -> (Client, bool) {
        let from_client = segment.destination() == self.settings.service;
        (if from_client { segment.source() } else { segment.destination() }, from_client)
    }

    pub(crate) fn acknowledge_client(&mut self, leg: &ClientLeg, seq: Seq, ack: Seq, window: u32) {
        let packet = leg.segment(self.now, seq, ack, window).build();
        self.send(packet);
    }

    pub(crate) fn send_to_client(&mut self, leg: &ClientLeg, piece: &Piece<'_>, ack: Seq, window: u32) {
        let flags = if piece.fin { Flags::FIN.union(Flags::PSH) } else { Flags::PSH };
        let bare = leg.segment(self.now, piece.seq, ack, window);
        self.send(SegmentBuilder { flags, payload: piece.data, ..bare }.build());
    }

    pub(crate) fn send_to_backend(
        &mut self,
        leg: &ClientLeg,
        to: &BackendLeg,
        piece: &Piece<'_>,
        ack: Seq,
        window: u32,
    ) {
        let flags = if piece.fin { Flags::FIN.union(Flags::PSH) } else { Flags::PSH };
        let bare = to.segment(leg, piece.seq, ack, window);
        self.send(SegmentBuilder { flags, payload: piece.data, ..bare }.build());
    }

    /// Answers to strangers are rationed, so that nobody can use the proxy to reflect traffic.
    pub(crate) fn may_answer_stranger(&mut self) -> bool {
        let second = self.now.as_nanos() / 1_000_000_000;
        if self.strangers.0 != second {
            self.strangers = (second, 0);
        }
        self.strangers.1 += 1;
        self.strangers.1 <= self.settings.strangers_per_second
    }

    /// RST with SEQ=SEG.ACK to a segment of no connection (RFC 9293 §3.10.7.1); none to a RST.
    pub(crate) fn refuse(&mut self, segment: &TcpSegment<'_>) {
        if segment.flags().rst() || !self.may_answer_stranger() {
            return;
        }
        let bare = SegmentBuilder::new(segment.destination(), segment.source());
        let reset = if segment.flags().ack() {
            SegmentBuilder { seq: segment.ack(), flags: Flags::RST, ..bare }
        } else {
            let ack = segment.seq() + segment.sequence_length();
            SegmentBuilder { ack: Some(ack), flags: Flags::RST, ..bare }
        };
        self.send(reset.build());
        self.counters.count("reset_sent_to_stranger");
    }
}
