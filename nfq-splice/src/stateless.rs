//! Set-ups without state: the answer to a SYN when the table of half-open connections is full, and the continuation of a
//! set-up that this proxy has no state of, because there was no room or because an earlier daemon had it.
//!
//! Only what the client has not been acknowledged can be continued: its next segment must begin with its first byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cluster::control::Client;
use packet::{TcpSegment, Time};

use crate::common::Core;
use crate::cookie::{self, Handshake, LIFETIME};
use crate::flow::{Flow, State};

/// The greatest window scale (RFC 7323 §2.3).
const MAX_SCALE: u8 = 14;

/// Ended connections that are remembered for their cookies at most; beyond it the oldest is forgotten.
const SPENT: usize = 16_384;

/// Segments that a client sent together come within this time of each other, and none of them again: its retransmission timeout is
/// longer (200 ms on Linux).
const ONE_FLIGHT: Duration = Duration::from_millis(150);

/// Clients whose connection has ended: a late copy of its first segment carries a cookie that is still good, and must not have
/// the request executed again.
#[derive(Debug, Default)]
struct Spent {
    until: BTreeMap<Client, Time>,
    order: VecDeque<(Time, Client)>,
}

impl Spent {
    fn insert(&mut self, now: Time, client: Client) {
        self.until.insert(client, now + LIFETIME);
        self.order.push_back((now + LIFETIME, client));
        while self.order.front().is_some_and(|(until, _)| *until <= now || self.order.len() > SPENT) {
            let Some((until, client)) = self.order.pop_front() else { return };
            if self.until.get(&client) == Some(&until) {
                self.until.remove(&client);
            }
        }
    }

    fn contains(&self, now: Time, client: Client) -> bool {
        self.until.get(&client).is_some_and(|until| now < *until)
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
    fn is_young(&self, now: Time) -> bool {
        self.started.is_none_or(|started| now < started + LIFETIME)
    }

    /// The client's connection has ended.
    pub(crate) fn spend(&mut self, now: Time, client: Client) {
        if now < self.until.max(self.restarted(now)) {
            self.spent.insert(now, client);
        }
    }

    /// Until then clients of an earlier daemon may bring its cookies; later these are too old.
    fn restarted(&mut self, now: Time) -> Time {
        *self.started.get_or_insert(now) + LIFETIME
    }

    /// The client opens a new connection.
    pub(crate) fn renew(&mut self, now: Time, client: Client) {
        self.restarted(now);
        self.lost.remove(&client);
        self.spent.until.remove(&client);
    }

    /// Whether to wait for what the client repeats. What it sent first may have been lost with an earlier daemon, and not have
    /// been acknowledged: then it comes again, after one retransmission timeout at least, and the set-up goes on. Anything else
    /// that is still unknown then is of a connection that is lost.
    pub(crate) fn waits_for(&mut self, now: Time, client: Client) -> bool {
        if !self.takes(now, client) || !self.is_young(now) {
            return false;
        }
        if self.doubtful.len() >= SPENT && !self.doubtful.contains_key(&client) {
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

    /// A segment of no connection: continues a set-up if its acknowledgement proves that this proxy answered its SYN.
    pub(crate) fn continue_setup(&mut self, segment: &TcpSegment<'_>) -> Option<Flow> {
        let (flags, client) = (segment.flags(), segment.source());
        if !flags.ack() || flags.syn() || flags.rst() || !self.stateless.takes(self.now, client) {
            return None;
        }
        let found = self.announced_scales().into_iter().find_map(|scale| self.flow_of_cookie(segment, scale));
        self.counters.count(if found.is_some() { "syn_cookies_accepted" } else { "syn_cookies_wrong" });
        found
    }

    fn flow_of_cookie(&self, segment: &TcpSegment<'_>, announced_scale: u8) -> Option<Flow> {
        let (client, irs, iss) = (segment.source(), segment.seq() - 1, segment.ack() - 1);
        let timestamp = segment.timestamps().map(|(value, _)| value);
        let handshake = Handshake { client, irs, announced_scale };
        let options = cookie::check(&self.secret, self.now, &handshake, iss, timestamp)?;
        let mut flow = self.half_open_flow(client, options, irs, iss);
        flow.leg.announced_scale = if options.window_scale.is_some() { announced_scale } else { 0 };
        if let State::Setup(setup) = &mut flow.state {
            setup.establish();
            setup.continued = self.stateless.is_young(self.now);
        }
        Some(flow)
    }

    /// The scales that clients in set-up may have been told: the backends' may have changed since, and an earlier daemon may have
    /// learnt any.
    fn announced_scales(&self) -> Vec<u8> {
        // The likely ones first: a number may by chance be good for another scale, with other options.
        let likely = [Some(self.scale()), self.former_scale, Some(self.settings.splice.window_scale)];
        let any = (0..=MAX_SCALE).filter(|_| self.stateless.is_young(self.now));
        likely.into_iter().flatten().chain(any).collect()
    }
}
