//! One client's connection and the states it can be in.

use cluster::control::{Client, RecoveryOrder};
use packet::{Reassembly, Seq, Time};
use std::net::SocketAddr;

use crate::action::KernelSplice;
use crate::bridge::Bridge;
use crate::held::Held;
use crate::leg::{BackendLeg, ClientLeg};
use crate::pass::Shortfall;
use crate::replays::Replays;
use crate::sender::Sender;
use crate::supply::Supply;
use crate::take_in::Comparison;
use crate::window::Window;
use crate::young::Young;

/// One client's connection.
pub(crate) struct Flow {
    pub(crate) leg: ClientLeg,
    pub(crate) resplices: u32,
    /// Its packets are queued before conntrack.
    pub(crate) suspended: bool,
    /// It is kept for a daemon after this one.
    pub(crate) parked: bool,
    /// The round ([`crate::common::Core::round`]) in which something was last to be done for it.
    pub(crate) acted: u32,
    /// When this daemon got its first segment, or the last moment at which its packets were queued: no handshake that the fast path's
    /// program answered up to then is a later connection's. Milliseconds of a clock that wraps; 0: not known.
    pub(crate) began: u32,
    pub(crate) state: State,
    /// As entered in the engine's timer table.
    pub(crate) timer: Option<Time>,
}

/// Where it stands.
pub(crate) enum State {
    /// From the SYN to the backend's SYN-ACK.
    Setup(Box<Setup>),
    /// Client and backend talk to each other.
    Spliced(Splice),
    /// The backend failed; un-spliced until the alternate has taken over.
    Recovering(Box<Recovery>),
    /// The proxy itself answers and closes.
    Answering(Box<Answering>),
    /// Over; the engine removes it.
    Gone,
}

/// A connection without a backend yet.
pub(crate) struct Setup {
    /// The client's initial sequence number.
    pub(crate) irs: Seq,
    /// Ours towards the client.
    pub(crate) iss: Seq,
    /// The client has acknowledged our SYN-ACK.
    pub(crate) established: bool,
    /// It was begun with an earlier daemon, which may have had the head's beginning, though that is unlikely.
    pub(crate) continued: bool,
    /// The request, as far as it came in order.
    pub(crate) request: Vec<u8>,
    pub(crate) reassembly: Reassembly,
    /// How long it was when it was last looked at.
    pub(crate) parsed: usize,
    /// How many of its bytes the proxy acknowledged, and therefore owes to the backend.
    pub(crate) acknowledged: usize,
    /// 408 when it passes without a complete head.
    pub(crate) head_deadline: Time,
    /// SYN-ACK or SYN to be repeated.
    pub(crate) repeat: Option<Repeat>,
    pub(crate) connect: Option<Connect>,
}

/// A segment that is repeated with growing distance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeat {
    pub(crate) at: Time,
    pub(crate) tries: u32,
}

/// A handshake with a backend in progress.
pub(crate) struct Connect {
    pub(crate) backend: SocketAddr,
    /// Those that refused or were silent, and the present one.
    pub(crate) tried: Vec<SocketAddr>,
    /// The first SYN asks for ECN.
    pub(crate) asks_for_ecn: bool,
    /// A handshake that was withdrawn, because it granted what the client is not promised: the backend's number in it, and how many
    /// SYNs of the next one had been sent when it was last reset.
    pub(crate) withdrawn: Option<(Seq, u32)>,
}

/// A splice: what is needed to translate, and to undo it.
pub(crate) struct Splice {
    pub(crate) backend: SocketAddr,
    /// `client space = backend space + delta`, server's bytes.
    pub(crate) delta: u32,
    /// `client's TSval = backend's TSval + ts`; `None`: no timestamps.
    pub(crate) ts: Option<u32>,
    /// The backend's window scale.
    pub(crate) server_scale: u8,
    /// The scale the backend applies to the client's windows.
    pub(crate) client_scale: u8,
    /// What the proxy makes up for.
    pub(crate) lacks: Shortfall,
    /// The kernel translates.
    pub(crate) kernel: bool,
    /// The backend, or alternate, has only answered the SYN as far as is known: what ended the handshake may have been lost.
    pub(crate) unheard: bool,
    /// What the proxy still owes to either side; until then it translates itself.
    pub(crate) debts: Option<Box<Debts>>,
    pub(crate) closing: Closing,
    /// What may come, if the proxy itself translates; `None`: not known, because an earlier daemon spliced it.
    pub(crate) window: Option<Window>,
    pub(crate) idle: Idle,
    /// Until then the fast path alone translates it.
    pub(crate) young: Option<Young>,
}

impl Splice {
    /// What the kernel translates as this entry says.
    pub(crate) fn of(entry: &KernelSplice, idle: Idle) -> Self {
        let (client_scale, server_scale) = entry.window_scales.unwrap_or((0, 0));
        Self {
            backend: entry.backend,
            delta: entry.delta,
            ts: entry.timestamps,
            server_scale,
            client_scale,
            lacks: Shortfall::default(),
            kernel: true,
            unheard: false,
            debts: None,
            closing: Closing::default(),
            window: None,
            idle,
            young: None,
        }
    }
}

/// Whether a connection that the proxy translates itself is still used; of the others conntrack keeps account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    /// Its last segment.
    pub(crate) seen: Time,
    /// To be looked at again then: a timer that moved with each segment would cost more than it tells.
    pub(crate) check: Time,
}

/// Bytes whose retransmission is the proxy's duty.
pub(crate) struct Debts {
    /// Logged response bytes up to `point`.
    pub(crate) to_client: Sender,
    /// Request bytes.
    pub(crate) to_backend: Sender,
    pub(crate) leg: BackendLeg,
    /// Where the backend's bytes begin, in the client's space: earlier acknowledgements do not concern it.
    pub(crate) point: Seq,
    /// One after the client's bytes that the proxy owes or the backend has acknowledged: the client need not repeat them.
    pub(crate) client_next: Seq,
    /// Bytes that were taken over since the splice because the client had no room for them.
    pub(crate) absorbed: usize,
    /// What the client sent meanwhile.
    pub(crate) held: Held,
}

/// How far a connection that the proxy translates itself has been closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Closing {
    pub(crate) client_fin: bool,
    pub(crate) server_fin: bool,
    pub(crate) reset: bool,
    /// Forgotten then, unless something comes.
    pub(crate) deadline: Option<Time>,
}

/// A recovery being executed (paper §4.3).
pub(crate) struct Recovery {
    pub(crate) order: RecoveryOrder,
    /// Alternates that were asked.
    pub(crate) tried: Vec<SocketAddr>,
    /// The failed backend's, as in [`Splice::delta`].
    pub(crate) delta: u32,
    pub(crate) arrived: Time,
    /// Names and microseconds since `arrived`.
    pub(crate) steps: Vec<(String, u64)>,
    /// The client gets a reset when it passes.
    pub(crate) deadline: Time,
    /// Client space: one after the last logged response byte; where the alternate's bytes begin.
    pub(crate) point: Seq,
    /// Client space: the first logged byte sent again.
    pub(crate) resend_first: Seq,
    pub(crate) resend: Sender,
    /// Client bytes beyond S that arrived meanwhile.
    pub(crate) held: Held,
    pub(crate) attempt: Attempt,
    /// What is taken in behind p.
    pub(crate) bridge: Bridge,
    /// Requests that were owed to the failed backend.
    pub(crate) owed: Option<Sender>,
    /// What follows the order's replay.
    pub(crate) supply: Supply,
}

/// The attempt with one alternate.
pub(crate) enum Attempt {
    /// SYN sent.
    Connecting(Repeat),
    /// Replaying and taking in.
    TakingIn(Box<TakingIn>),
    /// The alternate failed; another order is awaited.
    Waiting,
}

/// The alternate answers.
pub(crate) struct TakingIn {
    pub(crate) leg: BackendLeg,
    /// Of the order's replay, what may have been sent by now.
    pub(crate) replay: Sender,
    pub(crate) replays: Replays,
    pub(crate) comparison: Comparison,
    /// The comparison has ended well: bytes behind p that have been taken in.
    pub(crate) bridged: Option<u64>,
    pub(crate) reassembly: Reassembly,
    /// Data has come that is acknowledged when this batch of packets is over.
    pub(crate) owes_ack: bool,
}

/// An answer of the proxy's own.
pub(crate) struct Answering {
    pub(crate) sender: Sender,
    /// The client's next byte.
    pub(crate) client_next: Seq,
    /// The client has closed, and everything it sent has come.
    pub(crate) client_fin: bool,
    /// Forgotten then.
    pub(crate) deadline: Time,
    /// Forgotten then, whatever the client still sends.
    pub(crate) end: Time,
}

impl Setup {
    /// The handshake with the client is complete.
    pub(crate) fn establish(&mut self) {
        self.established = true;
        self.repeat = None;
    }

    /// Bytes of the request, in order or beyond a gap.
    pub(crate) fn kept(&self) -> usize {
        self.request.len() + self.reassembly.kept()
    }
}

impl Flow {
    /// One that an earlier daemon spliced.
    pub(crate) fn spliced(leg: ClientLeg, splice: Splice) -> Self {
        let state = State::Spliced(splice);
        Self { leg, resplices: 0, suspended: false, parked: false, acted: 0, began: 0, state, timer: None }
    }

    /// Up to when there can have been no later handshake, to a millisecond; where that is not known, `now`.
    pub(crate) fn began(&self, now: Time) -> Time {
        let millis = now.as_millis();
        let age = if self.began == 0 { 0 } else { (millis as u32).wrapping_sub(self.began) };
        Time::from_millis(millis.saturating_sub(age.into()))
    }

    pub(crate) fn client(&self) -> Client {
        self.leg.client
    }

    /// The backend whose packets belong to this connection.
    pub(crate) fn backend(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Setup(setup) => setup.connect.as_ref().map(|connect| connect.backend),
            State::Spliced(splice) => Some(splice.backend),
            State::Recovering(recovery) => Some(recovery.order.alternate),
            State::Answering(_) | State::Gone => None,
        }
    }

    /// Its SYN-ACK is not acknowledged: counts against the bound on half-open connections.
    pub(crate) fn is_half_open(&self) -> bool {
        matches!(&self.state, State::Setup(setup) if !setup.established)
    }

    /// It has no backend at present: its client waits.
    pub(crate) fn is_recovering(&self) -> bool {
        matches!(&self.state, State::Recovering(_))
    }

    /// Bytes kept of a request that is not with a backend yet: count against the bound on all such bytes.
    pub(crate) fn setup_bytes(&self) -> usize {
        if let State::Setup(setup) = &self.state { setup.kept() } else { 0 }
    }

    /// When `handle_timeout` is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Setup(setup) => {
                let head = setup.connect.is_none().then_some(setup.head_deadline);
                earliest([head, setup.repeat.map(|repeat| repeat.at), None])
            }
            State::Spliced(splice) => {
                let debts = splice.debts.as_ref();
                earliest([
                    debts.and_then(|debts| debts.to_client.deadline()),
                    debts.and_then(|debts| debts.to_backend.deadline()),
                    splice.next_look(),
                ])
            }
            State::Recovering(recovery) => {
                let attempt = match &recovery.attempt {
                    Attempt::Connecting(repeat) => Some(repeat.at),
                    Attempt::TakingIn(taking) => taking.replay.deadline(),
                    Attempt::Waiting => None,
                };
                earliest([Some(recovery.deadline), recovery.resend.deadline(), attempt])
            }
            State::Answering(answering) => {
                earliest([Some(answering.deadline), answering.sender.deadline(), None])
            }
            State::Gone => None,
        }
    }

    /// For `resplice status`.
    pub(crate) fn state_name(&self) -> &'static str {
        match &self.state {
            State::Setup(setup) if !setup.established => "syn-received",
            State::Setup(setup) if setup.connect.is_none() => "collecting",
            State::Setup(_) => "connecting",
            State::Spliced(splice) if splice.kernel => "spliced-kernel",
            State::Spliced(splice) if splice.young.is_some() => "spliced-young",
            State::Spliced(_) => "spliced-userspace",
            State::Recovering(_) => "recovering",
            State::Answering(_) => "answering",
            State::Gone => "gone",
        }
    }
}

fn earliest(deadlines: [Option<Time>; 3]) -> Option<Time> {
    deadlines.into_iter().flatten().min()
}
