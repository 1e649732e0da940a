//! Which records are shown: expressions in the manner of tcpdump, with the log's own words beside them.

mod parse;
mod time;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use packet::Flags as TcpFlags;
use segment_log::Flags;
use thiserror::Error;

use super::view::View;

/// What [`Filter::parse`] understands, for `--help`.
pub const GRAMMAR: &str = "\
Filter: words as in tcpdump's, combined with `and`, `or`, `not` and parentheses:
  [src|dst] host ADDRESS         either end, or one of them
  [src|dst] net ADDRESS/BITS
  [src|dst] port N               N may be a range: 8000-8099
  client ADDRESS[:PORT]          the client's end (IPv6 with port: [ADDRESS]:PORT)
  backend ADDRESS[:PORT]         the backend's end
  from client, from backend      direction
  connection ADDRESS:PORT        everything of one client connection
  transaction ADDRESS:PORT/N     the N-th request on it and its response, N from 1
  since TIME, until TIME         when it was logged: 13:05:07[.25] (UTC, today), 2026-01-31T13:05:07Z, or -90s (before now)
  syn, fin, rst, psh, urg        a TCP flag is set
  data                           it carries payload
  greater N, less N              payload bytes, N included
  retransmission, out-of-order, held, gso, swallowed, fenced, unfenced
                                 what the logger noted
  ip, ip6, tcp
Example: nfq-logger dump 'client 10.0.0.7 and (from backend or fin) and since -5m'";

/// Why an expression is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("filter, at {place}: {what}; `nfq-logger dump --help` lists the words")]
pub struct FilterError {
    /// The word and its number, or the end.
    pub(crate) place: String,
    /// What is wrong there, and what would be right.
    pub(crate) what: String,
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Either,
    Source,
    Destination,
}

/// An address with or without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    address: IpAddr,
    port: Option<u16>,
}

impl Place {
    fn is(&self, end: SocketAddr) -> bool {
        self.address == end.ip() && self.port.is_none_or(|port| port == end.port())
    }
}

/// A network: the first `bits` of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Net {
    address: IpAddr,
    bits: u32,
}

impl Net {
    fn covers(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(other)) => {
                let differing = net.to_bits() ^ other.to_bits();
                differing.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(other)) => {
                let differing = net.to_bits() ^ other.to_bits();
                differing.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Host(End, IpAddr),
    Net(End, Net),
    Port(End, RangeInclusive<u16>),
    Client(Place),
    Backend(Place),
    FromBackend,
    Connection(SocketAddr),
    Transaction(SocketAddr, u64),
    Since(u64),
    Until(u64),
    Tcp(TcpFlags),
    Logged(Flags),
    Length(RangeInclusive<usize>),
    Version(bool),
    Any,
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

/// A filter; the default one lets everything pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    expression: Expression,
}

impl Default for Filter {
    fn default() -> Self {
        Self { expression: Expression::Any }
    }
}

impl Filter {
    /// Understands an expression; `now_ns` (nanoseconds since 1970) is what times are relative to. An empty one lets
    /// everything pass.
    pub fn parse(text: &str, now_ns: u64) -> Result<Self, FilterError> {
        Ok(Self { expression: parse::expression(text, now_ns)? })
    }

    /// Everything of one client's connection.
    pub fn connection(client: SocketAddr) -> Self {
        Self { expression: Expression::Connection(client) }
    }

    /// Both must let it pass.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { expression: Expression::And(Box::new(self.expression), Box::new(other.expression)) }
    }

    /// Transactions have to be told apart before it is asked.
    pub fn needs_transactions(&self) -> bool {
        self.expression.any(&|expression| matches!(expression, Expression::Transaction(..)))
    }

    /// It is to be shown.
    pub fn matches(&self, view: &View<'_>) -> bool {
        self.expression.matches(view)
    }
}

impl Expression {
    fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self)
            || match self {
                Self::Not(inner) => inner.any(test),
                Self::And(a, b) | Self::Or(a, b) => a.any(test) || b.any(test),
                _ => false,
            }
    }

    fn matches(&self, view: &View<'_>) -> bool {
        match self {
            Self::Host(end, address) => at(*end, view, &|side| side.ip() == *address),
            Self::Net(end, net) => at(*end, view, &|side| net.covers(side.ip())),
            Self::Port(end, ports) => at(*end, view, &|side| ports.contains(&side.port())),
            Self::Client(place) => place.is(view.flow().client),
            Self::Backend(place) => place.is(view.flow().backend),
            Self::FromBackend => view.from_backend(),
            Self::Connection(client) => view.client() == *client,
            Self::Transaction(client, ordinal) => {
                view.client() == *client
                    && view.transactions.as_ref().is_some_and(|ordinals| ordinals.contains(ordinal))
            }
            Self::Since(time) => view.unix_ns >= *time,
            Self::Until(time) => view.unix_ns <= *time,
            Self::Tcp(flag) => view.segment.flags().contains(*flag),
            Self::Logged(flag) => view.record.flags().contains(*flag),
            Self::Length(lengths) => lengths.contains(&view.length()),
            Self::Version(v6) => view.segment.source().is_ipv6() == *v6,
            Self::Any => true,
            Self::Not(inner) => !inner.matches(view),
            Self::And(a, b) => a.matches(view) && b.matches(view),
            Self::Or(a, b) => a.matches(view) || b.matches(view),
        }
    }
}

fn at(end: End, view: &View<'_>, test: &dyn Fn(SocketAddr) -> bool) -> bool {
    let (source, destination) = (view.segment.source(), view.segment.destination());
    match end {
        End::Either => test(source) || test(destination),
        End::Source => test(source),
        End::Destination => test(destination),
    }
}
