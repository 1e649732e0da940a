//! Held segments: judged at once, after a second opinion, or when what they overtook has come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use cluster::control::{Evidence, Flow};
use packet::{Seq, Time};

use crate::connection::Connection;
use crate::judge::{End, InProgress, Judgement, judge};

use super::entry::{Entry, Held, State};
use super::segments::Seen;
use super::{Action, Engine};

/// What ends within this time of a connection that certainly failed ends with the same process (a worker of the backend).
const ONE_DEATH: Duration = Duration::from_millis(100);
/// The end of a connection on which nothing is owed is kept from the client for this long: a dying server's processes end
/// one after the other, and as long as one is left, the backend seems to serve.
const IDLE_END: Duration = Duration::from_millis(100);
/// So many such ends at once are a server that dies: its kernel may take longer to close them all. Each is kept back until
/// [`IDLE_END`] after the last one
const MANY_IDLE_ENDS: usize = 32;
/// but no longer than this.
const IDLE_END_MOST: Duration = Duration::from_secs(1);
/// Held segments of one flow at most: a backend repeats its FIN. Further ones are suppressed.
const MAX_HELD: usize = 16;

impl Engine {
    pub(super) fn release(&mut self, hold: Option<u64>, out: &mut Vec<Action>) {
        if let (Some(hold), true) = (hold, self.live.is_some()) {
            self.counters.released += 1;
            out.push(Action::Release(hold));
        }
    }

    pub(super) fn suppress(&mut self, hold: u64, out: &mut Vec<Action>) {
        self.counters.suppressed += 1;
        out.push(Action::Suppress(hold));
    }

    /// Judges the segment if it is held, and again those held before: what came may have changed the situation.
    pub(super) fn judge(&mut self, seen: &Seen<'_>, out: &mut Vec<Action>) {
        let flow = seen.flow;
        match seen.logged.hold {
            Some(hold) => self.take_hold(seen, hold, out),
            None => self.note_passed_end(seen),
        }
        let Some(entry) = self.entries.get(&flow).filter(|entry| entry.failing.is_none()) else { return };
        let (Some(held), State::Open(connection)) = (entry.held.last(), &entry.state) else { return };
        let (end, since) = (held.end, held.time);
        match judge(end, &connection.situation()) {
            Judgement::Release => self.release_held(flow, out),
            Judgement::Failure(evidence) => {
                self.handle_premature(flow, evidence, since, seen.logged.time, out);
            }
            Judgement::AskBackend if self.live.is_none() => self.postpone_question(flow, end, since),
            Judgement::AskBackend => self.ask(flow, end, since),
            Judgement::AwaitClient if self.live.is_some() && seen.logged.hold.is_some() => {
                self.suspect(flow, Evidence::PrematureReset, since);
            }
            Judgement::AwaitClient | Judgement::Wait => {}
        }
    }

    /// What a held segment means to its connection.
    fn end(&self, seen: &Seen<'_>) -> End {
        let forgets = |connection: &Connection| connection.forgotten(seen.segment.seq());
        match seen.segment.flags().rst() {
            false => End::Fin,
            true if self.connection(seen.flow).is_some_and(forgets) => End::Forgotten,
            true => End::Reset,
        }
    }

    /// Keeps a hold that has to be judged; lets go at once of the others.
    fn take_hold(&mut self, seen: &Seen<'_>, hold: u64, out: &mut Vec<Action>) {
        let end = self.end(seen);
        let refused = matches!(
            self.entries.get(&seen.flow),
            Some(Entry { state: State::Unseen, embryo: Some(_), .. }) if end != End::Fin
        );
        if refused && self.live.is_some() {
            self.suspect(seen.flow, Evidence::PrematureReset, seen.logged.time);
        }
        let Some(entry) = self.entries.get_mut(&seen.flow) else { return self.release(Some(hold), out) };
        match &mut entry.state {
            _ if entry.failing.is_some() => self.suppress(hold, out),
            State::Failed(_) => self.suppress(hold, out),
            State::Open(connection) if end == End::Fin || connection.acceptable_reset(seen.segment.seq()) => {
                if entry.held.len() >= MAX_HELD {
                    return self.suppress(hold, out);
                }
                entry.held.push(Held { hold, end, time: seen.logged.time });
            }
            // Nothing shows yet whether the response was complete. A backend that means it says so again, in answer to the probe
            // or to the client's next segment.
            State::Open(connection) if connection.reset_ahead(seen.segment.seq()) => {
                let question = connection.ask_about_reset();
                self.counters.resets_ahead += 1;
                self.counters.keep_alives += u64::from(question.is_some());
                out.extend(question.map(Action::KeepAlive));
                self.suppress(hold, out);
            }
            State::Open(_) => {
                self.counters.ignored_resets += 1;
                self.release(Some(hold), out);
            }
            State::Middle(middle) => {
                middle.ended = true;
                self.release(Some(hold), out);
            }
            // Not a refusal, which has number 0 (RFC 9293 §3.10.7.1): it has overtaken its SYN-ACK, after which it would find the
            // client's connection.
            State::Unseen if refused && seen.segment.seq() != Seq(0) => self.suppress(hold, out),
            State::Unseen => self.release(Some(hold), out),
        }
    }

    /// A backend's FIN or RST that was not held: there was no judge. A FIN that does not reach its client is repeated.
    fn note_passed_end(&mut self, seen: &Seen<'_>) {
        let flags = seen.segment.flags();
        if !seen.logged.from_backend || !(flags.fin() || flags.rst()) {
            return;
        }
        match self.entries.get_mut(&seen.flow).map(|entry| &mut entry.state) {
            Some(State::Open(connection)) if !flags.rst() => connection.handle_passed(),
            Some(State::Open(connection)) if connection.acceptable_reset(seen.segment.seq()) => {
                connection.handle_reset_released();
            }
            Some(State::Middle(middle)) => middle.ended = true,
            _ => {}
        }
    }

    /// Lets the client have the end of its connection, unless a failure is to be told as soon as somebody is there.
    pub(super) fn release_held(&mut self, flow: Flow, out: &mut Vec<Action>) {
        if self.is_postponed(flow) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&flow) else { return };
        let held = std::mem::take(&mut entry.held);
        let reset = held.iter().any(|held| held.end != End::Fin);
        match &mut entry.state {
            State::Open(connection) if reset => connection.handle_reset_released(),
            State::Open(connection) if !held.is_empty() => connection.handle_released(),
            _ => {}
        }
        for held in held {
            self.release(Some(held.hold), out);
        }
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.asking.remove(&flow);
        }
    }

    pub(super) fn ask(&mut self, flow: Flow, end: End, since: Time) {
        let evidence = match end {
            End::Fin => Evidence::PrematureFin,
            End::Reset | End::Forgotten => Evidence::PrematureReset,
        };
        let new = self.backends.get_mut(&flow.backend).is_some_and(|backend| backend.asking.insert(flow));
        if new {
            self.counters.opinions += 1;
            self.suspect(flow, evidence, since);
        }
    }

    /// Asks for a second opinion on a flow's backend.
    pub(super) fn suspect(&mut self, flow: Flow, evidence: Evidence, since: Time) {
        if let Some(backend) = self.backends.get_mut(&flow.backend) {
            backend.suspicion = Some((evidence, since));
            backend.health.ask_opinion();
        }
    }

    /// This connection has failed for certain; whether its backend has is asked afterwards.
    fn handle_premature(
        &mut self,
        flow: Flow,
        evidence: Evidence,
        since: Time,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(backend) = self.backends.get_mut(&flow.backend) else { return };
        backend.premature = Some(since);
        let up = backend.health.is_up();
        self.fail(vec![flow], evidence, since, !up, now, out);
        if self.live.is_some() && up {
            self.suspect(flow, evidence, since);
        }
    }

    /// The backend serves: ends that were undecided are ordinary ones, unless one of its processes has died.
    pub(super) fn handle_serves(&mut self, backend: SocketAddr, now: Time, out: &mut Vec<Action>) {
        let recent = self.recent_idle_ends(backend, now);
        let Some(entry) = self.backends.get_mut(&backend) else { return };
        let asking = std::mem::take(&mut entry.asking);
        let death = entry.premature;
        if let Some(until) = recent.values().min() {
            entry.health.ask_opinion_at(*until);
        } else {
            entry.suspicion = None;
        }
        let (recent, asking) = asking.into_iter().partition(|flow| recent.contains_key(flow));
        entry.asking = recent;
        let (died, ended): (Vec<Flow>, Vec<Flow>) =
            asking.into_iter().partition(|flow| death.is_some_and(|death| self.died_with(*flow, death)));
        for flow in ended {
            let response = self.connection(flow).map(|connection| connection.situation().response);
            self.counters.ambiguous += u64::from(response == Some(InProgress::UntilClose));
            self.release_held(flow, out);
            self.note_end(flow, now);
        }
        if let (Some(death), false) = (death, died.is_empty()) {
            self.counters.worker_ends += died.len() as u64;
            self.fail(died, Evidence::PrematureFin, death, false, now, out);
        }
    }

    /// Flows whose undecided end, with nothing owed, is kept back, and until when. Those that ended together with a certain
    /// failure are decided already.
    fn recent_idle_ends(&self, backend: SocketAddr, now: Time) -> BTreeMap<Flow, Time> {
        let Some(entry) = self.backends.get(&backend) else { return BTreeMap::new() };
        let end = |flow: &Flow| {
            let held = self.entries.get(flow)?.held.last()?.time;
            let idle = self.connection(*flow)?.situation().response == InProgress::Nothing;
            let decided = entry.premature.is_some_and(|death| self.died_with(*flow, death));
            (idle && !decided).then_some((*flow, held))
        };
        let ends: Vec<(Flow, Time)> = entry.asking.iter().filter_map(end).collect();
        let last = ends.iter().map(|(_, held)| *held).max().filter(|_| ends.len() >= MANY_IDLE_ENDS);
        let until = |held: Time| match last {
            Some(last) => (last + IDLE_END).min(held + IDLE_END_MOST),
            None => held + IDLE_END,
        };
        let kept = ends.into_iter().map(|(flow, held)| (flow, until(held)));
        kept.filter(|(_, until)| now < *until).collect()
    }

    /// The flow's undecided end came together with a certain failure. An update whose response may have been whole is not
    /// run again.
    fn died_with(&self, flow: Flow, death: Time) -> bool {
        let Some(held) = self.entries.get(&flow).and_then(|entry| entry.held.last()) else { return false };
        let together = held.time.since(death).max(death.since(held.time)) <= ONE_DEATH;
        let connection = self.connection(flow);
        let harmless = |c: &Connection| c.repeatable() || c.request().is_none();
        together && connection.is_some_and(harmless)
    }
}
