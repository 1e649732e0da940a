//! Set-ups without state: the answer to a SYN when the table of half-open connections is full, and the continuation of a
//! set-up that this proxy has no state of, because there was no room or because an earlier daemon had it.
//!
//! Only what the client has not been acknowledged can be continued: its next segment must begin with its first byte.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use cluster::control::Client;
use packet::{TcpSegment, Time};

use crate::common::Core;
use crate::cookie::{self, Answer, Handshake, LIFETIME, Maker};
use crate::flow::{Flow, State};
use crate::key::Key;

/// Ended connections that are remembered for their cookies at most; beyond it the oldest is forgotten.
const SPENT: usize = 65_536;
/// Clients that are waited for at most; further ones are refused.
const DOUBTFUL: usize = 16_384;

/// Segments that a client sent together come within this time of each other, and none of them again: its retransmission timeout is
/// longer (200 ms on Linux).
const ONE_FLIGHT: Duration = Duration::from_millis(150);

/// Clients whose connection has ended, when, and when it began: a late copy of its first segment carries a cookie that is still good, and must not
/// have the request executed again.
#[derive(Debug, Default)]
struct Spent {
    ends: HashMap<Key, Spell>,
    order: VecDeque<(Time, Key)>,
    /// All that began later is known; `None`: all is.
    forgotten: Option<Time>,
}

/// The life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spell {
    began: Time,
    ended: Time,
}

impl Spent {
    fn insert(&mut self, ended: Time, client: Client, began: Time) {
        let key = Key::from(client);
        self.ends.insert(key, Spell { began, ended });
        self.order.push_back((ended, key));
        while self.order.front().is_some_and(|(at, _)| *at + LIFETIME <= ended || self.order.len() > SPENT) {
            let Some((at, key)) = self.order.pop_front() else { return };
            if let Some(spell) = self.ends.get(&key).copied().filter(|spell| spell.ended == at) {
                self.forgotten = self.forgotten.max(Some(spell.began));
                self.ends.remove(&key);
            }
        }
    }

    fn contains(&self, now: Time, client: Client) -> bool {
        self.ends.get(&Key::from(client)).is_some_and(|spell| now < spell.ended + LIFETIME)
    }

    /// Whether the handshake of this time, known to a millisecond, may be that of a connection that has ended. A later one may be
    /// older than that connection's end: the program answers as soon as the connection is taken off the fast path.
    fn may_have_ended(&self, client: Client, made: Time) -> bool {
        let began = self.ends.get(&Key::from(client)).map(|spell| spell.began).or(self.forgotten);
        began.is_some_and(|began| made.as_millis() <= began.as_millis())
    }
}

/// When cookies are taken, and from whom not.
#[derive(Debug, Default)]
pub(crate) struct Stateless {
    /// The first SYN, end of a connection or segment of none after the start of this daemon.
    started: Option<Time>,
    /// One lifetime after the last SYN that was answered without state.
    until: Time,
    /// Clients whose splice an earlier daemon took with it: their request may have been executed, what they repeat of it
    /// must not be a second time.
    lost: BTreeSet<Client>,
    spent: Spent,
    /// Clients of unknown connections in this daemon's first lifetime, and when each spoke first.
    doubtful: BTreeMap<Client, Time>,
    /// The fast path's program answers SYNs, at any time.
    by_program: bool,
}

impl Stateless {
    /// Whether cookies are taken from `client` at this moment.
    fn takes(&mut self, now: Time, client: Client) -> bool {
        let restarted = self.restarted(now);
        if now >= restarted {
            self.lost.clear();
            self.doubtful.clear();
        }
        let refused = self.lost.contains(&client) || self.spent.contains(now, client);
        now < self.until.max(restarted) && !refused
    }

    /// Cookies of an earlier daemon may still be good.
    pub(crate) fn is_young(&self, now: Time) -> bool {
        self.started.is_none_or(|started| now < started + LIFETIME)
    }

    /// A handshake of that time is older than this daemon: its client may have got further.
    pub(crate) fn is_older(&self, made: Time) -> bool {
        self.started.is_none_or(|started| made <= started)
    }

    /// The client's connection, which began at that time, has ended.
    pub(crate) fn spend(&mut self, now: Time, client: Client, began: Time) {
        if self.by_program || now < self.until.max(self.restarted(now)) {
            self.spent.insert(now, client, began);
        }
    }

    /// The program answers SYNs from now on.
    pub(crate) fn answer_by_program(&mut self, now: Time) {
        self.by_program = true;
        self.restarted(now);
    }

    /// Until then clients of an earlier daemon may bring its cookies; later these are too old.
    fn restarted(&mut self, now: Time) -> Time {
        *self.started.get_or_insert(now) + LIFETIME
    }

    /// The client opens a new connection.
    pub(crate) fn renew(&mut self, now: Time, client: Client) {
        self.restarted(now);
        self.lost.remove(&client);
        self.spent.ends.remove(&Key::from(client));
    }

    /// Whether a handshake of this time that the program answered may go on.
    pub(crate) fn takes_answered(&mut self, now: Time, client: Client, made: Time) -> bool {
        let restarted = self.restarted(now);
        let taken = self.by_program || now < restarted;
        let lost = made + LIFETIME < restarted && self.lost.contains(&client);
        taken && !lost && !self.spent.may_have_ended(client, made)
    }

    /// Whether to wait for what the client repeats. What it sent first may have been lost with an earlier daemon, and not have
    /// been acknowledged: then it comes again, after one retransmission timeout at least, and the set-up goes on. Anything else
    /// that is still unknown then is of a connection that is lost.
    pub(crate) fn waits_for(&mut self, now: Time, client: Client) -> bool {
        if !self.takes(now, client) || !self.is_young(now) {
            return false;
        }
        if self.doubtful.len() >= DOUBTFUL && !self.doubtful.contains_key(&client) {
            return false;
        }
        now < *self.doubtful.entry(client).or_insert(now) + ONE_FLIGHT
    }

    /// An earlier daemon translated this client's packets itself.
    pub(crate) fn lose(&mut self, client: Client) {
        self.lost.insert(client);
    }
}

impl Core {
    /// Answers a SYN and forgets it. The client's own repetition takes the place of ours.
    pub(crate) fn answer_without_state(&mut self, segment: &TcpSegment<'_>) {
        self.counters.count("syn_cookies_sent");
        self.stateless.until = self.now + LIFETIME;
        let flow = self.begin(segment);
        self.send_syn_ack(&flow);
    }

    /// A segment of no connection: continues the handshake that the program or this proxy answered, if it proves that.
    pub(crate) fn continue_handshake(&mut self, segment: &TcpSegment<'_>) -> Option<Flow> {
        let found = self.continue_answered(segment).or_else(|| self.continue_setup(segment));
        if found.is_none() && self.takes_cookie(segment) {
            self.counters.count("syn_cookies_wrong");
        }
        found
    }

    /// Continues a set-up if the segment's acknowledgement proves that this proxy answered its SYN.
    fn continue_setup(&mut self, segment: &TcpSegment<'_>) -> Option<Flow> {
        let found = if self.takes_cookie(segment) { self.flow_of_cookie(segment) } else { None };
        let found = found.filter(|flow| self.may_begin_with(flow, segment))?;
        self.counters.count("syn_cookies_accepted");
        Some(found)
    }

    /// Of what was begun with an earlier daemon a later segment may come first; the numbers of one in 70,000 look like a beginning.
    /// An empty line, which no client should begin with (RFC 9112 §2.2), is the end of a head.
    pub(crate) fn may_begin_with(&self, flow: &Flow, segment: &TcpSegment<'_>) -> bool {
        let State::Setup(setup) = &flow.state else { return false };
        let (most, bytes) = (self.settings.splice.request_head_bytes, segment.payload());
        let begins = || !bytes.starts_with(b"\r") && http1::parse_request(bytes, most).is_ok();
        !setup.continued || !self.settings.http || begins()
    }

    fn takes_cookie(&mut self, segment: &TcpSegment<'_>) -> bool {
        let (flags, client) = (segment.flags(), segment.source());
        flags.ack() && !flags.syn() && !flags.rst() && self.stateless.takes(self.now, client)
    }

    fn flow_of_cookie(&self, segment: &TcpSegment<'_>) -> Option<Flow> {
        let (client, irs, iss) = (segment.source(), segment.seq() - 1, segment.ack() - 1);
        let timestamp = segment.timestamps().map(|(value, _)| value);
        let answer = cookie::check(&self.secret, self.now, &Handshake { client, irs }, iss, timestamp)?;
        let Answer { maker, announced_scale, options } = answer;
        if maker != Maker::Daemon || !self.may_have_announced(announced_scale) {
            return None;
        }
        let mut flow = self.half_open_flow(client, options, irs, iss);
        flow.leg.announced_scale = if options.window_scale.is_some() { announced_scale } else { 0 };
        if let Some((_, told)) = segment.timestamps() {
            flow.leg.note_answer_taken(self.now, told);
        }
        if let State::Setup(setup) = &mut flow.state {
            setup.establish();
            setup.continued = self.stateless.is_young(self.now);
        }
        Some(flow)
    }

    /// Clients in set-up may have been told this scale: the backends' may have changed since, and an earlier daemon may have learnt any.
    fn may_have_announced(&self, scale: u8) -> bool {
        let known = [Some(self.scale()), self.former_scale, Some(self.settings.splice.window_scale)];
        self.stateless.is_young(self.now) || known.contains(&Some(scale))
    }
}
