//! What ended lately, so that repeated reports and late outcomes are recognised.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use cluster::control::{Client, ConnectionReport, Flow};
use packet::Seq;

use super::LoggerId;
use crate::plan::p;

/// What tells two failures of a client's connections apart: a repeated report has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    flow: Flow,
    t_l: u32,
    ack_tl: u32,
    client_next: u32,
    p: u64,
}

impl Fingerprint {
    pub(super) fn of(report: &ConnectionReport) -> Self {
        Self {
            flow: report.flow,
            t_l: report.t_l,
            ack_tl: report.ack_tl,
            client_next: report.client_next,
            p: p(report),
        }
    }
}

/// Where a client's connection stood when it was re-spliced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Respliced {
    /// The client's initial sequence number at the alternate: another one is of another connection.
    client_isn: u32,
    t_l: u32,
    /// S, as far as it was ever known.
    client_known: u32,
}

impl Respliced {
    pub(super) fn new(client_isn: u32, t_l: u32, client_known: u32) -> Self {
        Self { client_isn, t_l, client_known }
    }

    /// What of a later report of that connection cannot be.
    fn goes_back(&self, report: &ConnectionReport) -> Option<String> {
        (report.t_l < self.t_l).then(|| format!("T_L goes back from {} to {}", self.t_l, report.t_l))
    }
}

/// One ended recovery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) fingerprint: Fingerprint,
    pub(super) logger: LoggerId,
    /// Where the client went; `None`: it was reset or is gone.
    pub(super) backend: Option<SocketAddr>,
    /// Its last order and the alternate there, if one was given.
    pub(super) order: Option<(u64, SocketAddr)>,
    /// What any later report of the connection with `backend` must follow.
    pub(super) respliced: Option<Respliced>,
}

/// The last ones, one of each client.
#[derive(Debug)]
pub(super) struct Recent {
    ended: BTreeMap<Client, Ended>,
    oldest_first: VecDeque<Client>,
    limit: usize,
}

impl Recent {
    pub(super) fn new(limit: usize) -> Self {
        Self { ended: BTreeMap::new(), oldest_first: VecDeque::new(), limit }
    }

    pub(super) fn remember(&mut self, client: Client, ended: Ended) {
        if self.ended.insert(client, ended).is_some() {
            return;
        }
        self.oldest_first.push_back(client);
        if self.oldest_first.len() > self.limit {
            self.oldest_first.pop_front().map(|oldest| self.ended.remove(&oldest));
        }
    }

    /// The recovery that dealt with the failure before.
    pub(super) fn repeated(&self, report: &ConnectionReport) -> Option<Ended> {
        let ended = self.ended.get(&report.flow.client)?;
        (ended.fingerprint == Fingerprint::of(report)).then_some(*ended)
    }

    /// Where the client went whose last recovery began with this failure, unless that was no re-splice.
    pub(super) fn went_to(&self, flow: Flow, client_next: u32) -> Option<SocketAddr> {
        let ended = self.ended.get(&flow.client)?;
        let same = ended.fingerprint.flow == flow && ended.fingerprint.client_next == client_next;
        ended.backend.filter(|_| same)
    }

    /// The connection of this report began with the re-splice after that failure.
    pub(super) fn continues(&self, report: &ConnectionReport, flow: Flow, client_next: u32) -> bool {
        self.went_to(flow, client_next) == Some(report.flow.backend) && self.respliced(report).is_some()
    }

    /// The re-splice that this report's connection began with.
    fn respliced(&self, report: &ConnectionReport) -> Option<Respliced> {
        let ended = self.ended.get(&report.flow.client)?;
        let same = |respliced: &Respliced| {
            ended.backend == Some(report.flow.backend) && respliced.client_isn == report.client_isn
        };
        ended.respliced.filter(same)
    }

    /// Why this report cannot be of the connection that it names, as that was re-spliced.
    pub(super) fn contradicts(&self, report: &ConnectionReport) -> Option<String> {
        self.respliced(report)?.goes_back(report)
    }

    /// S of this report, or of an earlier one where that lies beyond: the log need not have seen all of a replay again.
    pub(super) fn client_known(&self, report: &ConnectionReport) -> u32 {
        let reported = Seq(report.client_next);
        self.respliced(report).map_or(reported, |before| reported.max(Seq(before.client_known))).0
    }

    /// The ended recovery whose last order was `id`.
    pub(super) fn by_order(&self, id: u64) -> Option<(Client, Ended)> {
        let named = |ended: &Ended| ended.order.is_some_and(|(order, _)| order == id);
        self.ended.iter().find(|(_, ended)| named(ended)).map(|(client, ended)| (*client, *ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(port: u16) -> ConnectionReport {
        let address = |port| SocketAddr::from(([203, 0, 113, 5], port));
        ConnectionReport::new(Flow { client: address(port), backend: address(80) })
    }

    #[test]
    fn only_the_last_ones_are_remembered() {
        let mut recent = Recent::new(3);
        for port in [1, 2, 2, 2, 3, 4, 5] {
            let fingerprint = Fingerprint::of(&report(port));
            let ended =
                Ended { fingerprint, logger: LoggerId(0), backend: None, order: None, respliced: None };
            recent.remember(report(port).flow.client, ended);
        }
        let known: Vec<u16> = (1..=5).filter(|port| recent.repeated(&report(*port)).is_some()).collect();
        assert_eq!((known, recent.ended.len()), (vec![3, 4, 5], 3));
    }
}
