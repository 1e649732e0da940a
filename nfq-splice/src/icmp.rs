//! ICMP errors about a connection's segments (RFC 5927, RFC 5508 §4), so that path MTU discovery works through the splice.
//!
//! An error is for whoever owns the bytes that it quotes. Endpoints own theirs: they get it in their own numbers, and believe it
//! only if these are in flight, which they know exactly; where the proxy sees that they are not, they are not bothered. (The kernel's NAT translates addresses, but not the quoted
//! sequence number: a backend would ignore it.) Bytes that the proxy itself owes are the proxy's, which checks the same.
//!
//! Nothing here ends a connection (RFC 9293 MUST-56): a backend that refuses a handshake is only passed over.

use std::net::IpAddr;

use packet::icmp::{IcmpError, IcmpKind, IcmpTranslation, Quoted, too_big};
use packet::{Seq, SynOptions, TcpSegment, Time};

use crate::action::Verdict;
use crate::common::Core;
use crate::engine::Engine;
use crate::flow::{Answering, Attempt, Flow, Splice, State};
use crate::leg::ClientLeg;
use crate::sender::Sender;
use crate::window::Window;

/// Errors looked at per second at most: a router sends a few for each connection.
const PER_SECOND: u32 = 1000;
/// No link is smaller (RFC 791, RFC 8200 §5): an error that says so is wrong or malicious.
const FLOORS: (u32, u32) = (68, 1280);
/// MTUs that links have (RFC 1191 §7.1), for those who do not say theirs.
const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];

/// The largest usual MTU below `length`; IPv6 has none below its floor.
fn plateau_below(length: u32, v6: bool) -> Option<u16> {
    let floor = if v6 { FLOORS.1 } else { FLOORS.0 };
    let usual = PLATEAUS.into_iter().find(|plateau| u32::from(*plateau) < length)?;
    let mtu = u32::from(usual).max(floor);
    (mtu < length).then_some(mtu as u16)
}

/// What a link that is too small takes, if the error is to be believed; `None`: it is not.
fn believable_mtu(quoted: &Quoted, mtu: u32) -> Option<u16> {
    let v6 = quoted.source.is_ipv6();
    if mtu == 0 && !v6 {
        return plateau_below(quoted.length, v6);
    }
    let floor = if v6 { FLOORS.1 } else { FLOORS.0 };
    (floor..quoted.length).contains(&mtu).then_some(mtu as u16)
}

/// The path takes no more: as if the peer had announced it, so that later segments, and other backends, keep to it.
fn learn_path(options: &mut SynOptions, v6: bool, mtu: u16) {
    let mss = mtu.saturating_sub(if v6 { 60 } else { 40 });
    let default = if v6 { 1220 } else { 536 };
    options.mss = Some(options.mss.unwrap_or(default).min(mss));
}

/// What was decided about an error.
enum Fate {
    /// It was about bytes of the proxy's own.
    Taken,
    /// Whose sequence number is not in flight.
    NotInFlight,
    /// The owner gets it.
    Translate(IcmpTranslation),
}

impl Engine {
    /// A packet that is no TCP segment: an ICMP error about one, or nothing that concerns the proxy.
    pub(crate) fn handle_icmp(&mut self, packet: &[u8]) -> Verdict {
        let Ok(error) = IcmpError::parse(packet) else {
            self.core.counters.count("malformed_dropped");
            return Verdict::Drop;
        };
        let quoted = error.quoted();
        let ours = quoted.source == self.core.settings.service
            || self.core.settings.routing.knows(quoted.destination);
        if !ours {
            return Verdict::Untouched;
        }
        if self.core.may_translate_error() {
            self.dispatch_error(&error);
        } else {
            self.core.counters.count("icmp_rationed_dropped");
        }
        Verdict::Drop
    }

    fn dispatch_error(&mut self, error: &IcmpError<'_>) {
        let quoted = error.quoted();
        let to_client = quoted.source == self.core.settings.service;
        let client = if to_client { quoted.destination } else { quoted.source };
        let Some(mut flow) = self.take(client) else {
            return self.core.counters.count("icmp_unknown_connection_dropped");
        };
        self.core.handle_error(&mut flow, error, to_client);
        self.put(flow);
    }

    /// A packet that was to be sent is longer than its link takes: the proxy is the hop that says so.
    pub fn handle_too_long(&mut self, now: Time, packet: &[u8]) {
        self.core.now = now;
        self.core.counters.count("too_long_not_sent");
        let Ok(segment) = TcpSegment::parse(packet) else { return };
        let v6 = segment.source().is_ipv6();
        if let Some(mtu) = plateau_below(packet.len() as u32, v6) {
            let message = too_big(self.core.settings.service.ip(), &segment, mtu);
            if let Ok(error) = IcmpError::parse(&message) {
                self.dispatch_error(&error);
            }
        }
    }
}

impl Core {
    fn may_translate_error(&mut self) -> bool {
        let second = self.now.as_nanos() / 1_000_000_000;
        if self.icmp_errors.0 != second {
            self.icmp_errors = (second, 0);
        }
        self.icmp_errors.1 += 1;
        self.icmp_errors.1 <= PER_SECOND
    }

    fn handle_error(&mut self, flow: &mut Flow, error: &IcmpError<'_>, to_client: bool) {
        let quoted = error.quoted();
        let mtu = match error.kind() {
            IcmpKind::SourceQuench => return self.counters.count("icmp_source_quench_ignored"),
            IcmpKind::TooBig { mtu } => match believable_mtu(&quoted, mtu) {
                Some(mtu) => Some(mtu),
                None => return self.counters.count("icmp_unbelievable_mtu_dropped"),
            },
            _ => None,
        };
        let fate = if to_client {
            self.error_about_client(flow, error, mtu)
        } else if flow.backend() == Some(quoted.destination) {
            self.error_about_backend(flow, error, mtu)
        } else {
            Fate::NotInFlight
        };
        self.execute(error, &fate);
    }

    fn execute(&mut self, error: &IcmpError<'_>, fate: &Fate) {
        match fate {
            Fate::Taken => self.counters.count("icmp_taken"),
            Fate::NotInFlight => self.counters.count("icmp_not_in_flight_dropped"),
            Fate::Translate(translation) => {
                let mut packet = error.packet().to_vec();
                if translation.apply(&mut packet).is_ok() {
                    self.counters.count("icmp_translated");
                    self.send(packet);
                }
            }
        }
    }

    /// The quoted segment was on its way to the client.
    fn error_about_client(&mut self, flow: &mut Flow, error: &IcmpError<'_>, mtu: Option<u16>) -> Fate {
        let seq = error.quoted().seq;
        if owed_to_client(flow).is_some_and(|sender| sender.in_flight(seq)) {
            if let Some(mtu) = mtu {
                self.limit_to_client(flow, mtu);
            }
            return Fate::Taken;
        }
        let State::Spliced(splice) = &flow.state else { return Fate::NotInFlight };
        if splice.seen().is_some_and(|window| !is_between(flow.leg.acked, seq, window.server_end)) {
            return Fate::NotInFlight;
        }
        let fate = Fate::Translate(splice.error_to_backend(&flow.leg, error.source()));
        if let Some(mtu) = mtu.filter(|_| !splice.kernel) {
            learn_path(&mut flow.leg.options, flow.leg.client.is_ipv6(), mtu);
        }
        fate
    }

    fn limit_to_client(&mut self, flow: &mut Flow, mtu: u16) {
        learn_path(&mut flow.leg.options, flow.leg.client.is_ipv6(), mtu);
        let bytes = flow.leg.payload_bytes(self.mss());
        if let Some(sender) = owed_to_client(flow) {
            sender.limit(bytes);
        }
        match &mut flow.state {
            State::Answering(_) => self.send_answer(flow),
            State::Recovering(_) => self.pay_from_log(flow),
            State::Spliced(Splice { debts: Some(debts), .. }) => self.pay_client(&flow.leg, debts),
            _ => {}
        }
    }

    /// The quoted segment was on its way to the present backend.
    fn error_about_backend(&mut self, flow: &mut Flow, error: &IcmpError<'_>, mtu: Option<u16>) -> Fate {
        let Quoted { seq, .. } = error.quoted();
        let nobody = error.kind() == IcmpKind::NobodyListens;
        let announced = self.mss();
        match &mut flow.state {
            State::Setup(setup) if seq == setup.irs && nobody => self.connect_next(flow),
            State::Recovering(recovery) => match (recovery.isn(), &mut recovery.attempt) {
                (isn, Attempt::Connecting(_)) if seq == isn && nobody => {
                    self.alternate_failed(flow, "nobody listens there".to_owned());
                }
                (_, Attempt::TakingIn(taking)) if taking.replay.in_flight(seq) => {
                    if let Some(mtu) = mtu {
                        learn_path(&mut taking.leg.options, taking.leg.backend.is_ipv6(), mtu);
                        let bytes = taking.leg.payload_bytes(announced);
                        taking.replay.limit(bytes);
                        self.replay(flow);
                    }
                }
                _ => return Fate::NotInFlight,
            },
            State::Spliced(splice) => match &mut splice.debts {
                Some(debts) if debts.to_backend.in_flight(seq) => {
                    if let Some(mtu) = mtu {
                        learn_path(&mut debts.leg.options, debts.leg.backend.is_ipv6(), mtu);
                        debts.to_backend.limit(debts.leg.payload_bytes(announced));
                        self.pay_backend(&flow.leg, debts);
                    }
                }
                _ => {
                    let of_client = |window: Window| is_between(window.client_next, seq, window.client_end);
                    if !splice.seen().is_none_or(of_client) {
                        return Fate::NotInFlight;
                    }
                    return Fate::Translate(splice.error_to_client(&flow.leg, error.source()));
                }
            },
            _ => return Fate::NotInFlight,
        }
        Fate::Taken
    }
}

/// What the proxy itself sends the client.
fn owed_to_client(flow: &mut Flow) -> Option<&mut Sender> {
    match &mut flow.state {
        State::Answering(answering) => {
            let Answering { sender, .. } = &mut **answering;
            Some(sender)
        }
        State::Recovering(recovery) => Some(&mut recovery.resend),
        State::Spliced(splice) => splice.debts.as_mut().map(|debts| &mut debts.to_client),
        State::Setup(_) | State::Gone => None,
    }
}

/// `seq` is in flight between what is acknowledged and what was sent.
fn is_between(acknowledged: Seq, seq: Seq, sent: Seq) -> bool {
    acknowledged.before_or_at(seq) && seq.before(sent)
}

impl Splice {
    /// What is known of both sides; nothing while the kernel translates.
    fn seen(&self) -> Option<Window> {
        self.window.filter(|_| !self.kernel)
    }

    fn error_to_backend(&self, leg: &ClientLeg, from: IpAddr) -> IcmpTranslation {
        IcmpTranslation {
            addresses: [from, self.backend.ip()],
            source: self.backend,
            destination: leg.client,
            seq: self.delta.wrapping_neg(),
            ack: 0,
        }
    }

    /// The client knows no backends: what one of them says, the service says.
    fn error_to_client(&self, leg: &ClientLeg, from: IpAddr) -> IcmpTranslation {
        let from = if from == self.backend.ip() { leg.service.ip() } else { from };
        IcmpTranslation {
            addresses: [from, leg.client.ip()],
            source: leg.client,
            destination: leg.service,
            seq: 0,
            ack: self.delta,
        }
    }
}
