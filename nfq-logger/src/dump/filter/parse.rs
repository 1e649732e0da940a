//! From words to an expression: `or` binds weaker than `and`, `and` weaker than `not`, as in tcpdump.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use packet::Flags as TcpFlags;
use segment_log::Flags;

use super::time::parse_time;
use super::{End, Expression, FilterError, Net, Place};

/// Parentheses and `not`s inside each other at most.
const MAX_DEPTH: usize = 64;
const TIME: &str = "a time: 13:05:07 (UTC), 2026-01-31T13:05:07Z, or -90s";
/// Words at most.
const MAX_WORDS: usize = 4096;

pub(super) fn expression(text: &str, now_ns: u64) -> Result<Expression, FilterError> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('!', " not ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    if words.is_empty() {
        return Ok(Expression::Any);
    }
    let mut parser = Parser { words: &words, at: 0, depth: 0, now_ns };
    if words.len() > MAX_WORDS {
        return Err(parser.error(format!("more than {MAX_WORDS} words")));
    }
    let expression = parser.or()?;
    match parser.peek() {
        None => Ok(expression),
        Some(")") => Err(parser.error("a closing parenthesis without an opening one")),
        Some(_) => Err(parser.error("expected `and` or `or`")),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
    depth: usize,
    now_ns: u64,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn take(&mut self, wanted: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| wanted.contains(&word));
        self.at += usize::from(found);
        found
    }

    /// About the present word.
    fn error(&self, what: impl Into<String>) -> FilterError {
        let place = match self.peek() {
            Some(word) => format!("`{word}` (word {})", self.at + 1),
            None => "its end".to_owned(),
        };
        FilterError { place, what: what.into() }
    }

    /// The present word, as `read` understands it.
    fn value<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, FilterError> {
        let value = self.peek().and_then(read).ok_or_else(|| self.error(format!("expected {what}")))?;
        self.at += 1;
        Ok(value)
    }

    fn or(&mut self) -> Result<Expression, FilterError> {
        let mut left = self.and()?;
        while self.take(&["or", "||"]) {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, FilterError> {
        let mut left = self.not()?;
        while self.take(&["and", "&&"]) {
            left = Expression::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        let inner = if self.take(&["not"]) {
            Expression::Not(Box::new(self.not()?))
        } else if self.take(&["("]) {
            let inner = self.or()?;
            if !self.take(&[")"]) {
                return Err(self.error("expected a closing parenthesis"));
            }
            inner
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn primitive(&mut self) -> Result<Expression, FilterError> {
        for (word, end) in [("src", End::Source), ("dst", End::Destination)] {
            if self.take(&[word]) {
                return self.at_end(end)?.ok_or_else(|| self.error("expected `host`, `net` or `port`"));
            }
        }
        if let Some(found) = self.at_end(End::Either)? {
            return Ok(found);
        }
        let now_ns = self.now_ns;
        let time = |text: &str| parse_time(text, now_ns);
        if self.take(&["client"]) {
            self.value("an address, with or without a port", place).map(Expression::Client)
        } else if self.take(&["backend"]) {
            self.value("an address, with or without a port", place).map(Expression::Backend)
        } else if self.take(&["from"]) {
            self.direction()
        } else if self.take(&["connection"]) {
            self.value("a client's ADDRESS:PORT", |text| text.parse().ok()).map(Expression::Connection)
        } else if self.take(&["transaction"]) {
            self.value("ADDRESS:PORT/N with N from 1", transaction)
                .map(|(client, ordinal)| Expression::Transaction(client, ordinal))
        } else if self.take(&["since", "after"]) {
            self.value(TIME, time).map(Expression::Since)
        } else if self.take(&["until", "before"]) {
            self.value(TIME, time).map(Expression::Until)
        } else if self.take(&["greater"]) {
            self.value("a number of bytes", number).map(|bytes| Expression::Length(bytes..=usize::MAX))
        } else if self.take(&["less"]) {
            self.value("a number of bytes", number).map(|bytes| Expression::Length(0..=bytes))
        } else {
            self.value("a filter word", property)
        }
    }

    fn at_end(&mut self, end: End) -> Result<Option<Expression>, FilterError> {
        Ok(Some(if self.take(&["host"]) {
            Expression::Host(end, self.value("an IP address", |text| text.parse().ok())?)
        } else if self.take(&["net"]) {
            Expression::Net(end, self.value("a network, ADDRESS/BITS", net)?)
        } else if self.take(&["port", "portrange"]) {
            Expression::Port(end, self.value("a port, 0 to 65535, or a range of them", ports)?)
        } else {
            return Ok(None);
        }))
    }

    fn direction(&mut self) -> Result<Expression, FilterError> {
        if self.take(&["backend"]) {
            Ok(Expression::FromBackend)
        } else if self.take(&["client"]) {
            Ok(Expression::Not(Box::new(Expression::FromBackend)))
        } else {
            Err(self.error("expected `client` or `backend`"))
        }
    }
}

/// A word that stands alone.
fn property(word: &str) -> Option<Expression> {
    Some(match word {
        "syn" => Expression::Tcp(TcpFlags::SYN),
        "fin" => Expression::Tcp(TcpFlags::FIN),
        "rst" => Expression::Tcp(TcpFlags::RST),
        "psh" => Expression::Tcp(TcpFlags::PSH),
        "urg" => Expression::Tcp(TcpFlags::URG),
        "data" => Expression::Length(1..=usize::MAX),
        "retransmission" => Expression::Logged(Flags::RETRANSMISSION),
        "out-of-order" => Expression::Logged(Flags::OUT_OF_ORDER),
        "held" => Expression::Logged(Flags::HELD),
        "gso" => Expression::Logged(Flags::GSO),
        "swallowed" => Expression::Logged(Flags::SWALLOWED),
        "fenced" => Expression::Logged(Flags::FENCED),
        "unfenced" => Expression::Logged(Flags::UNFENCED),
        "ip" => Expression::Version(false),
        "ip6" => Expression::Version(true),
        "tcp" => Expression::Any,
        _ => return None,
    })
}

fn number(text: &str) -> Option<usize> {
    text.parse().ok()
}

fn place(text: &str) -> Option<Place> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Place { address, port: None });
    }
    let end: SocketAddr = text.parse().ok()?;
    Some(Place { address: end.ip(), port: Some(end.port()) })
}

fn net(text: &str) -> Option<Net> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some(Net { address, bits })
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

fn transaction(text: &str) -> Option<(SocketAddr, u64)> {
    let (client, ordinal) = text.rsplit_once('/')?;
    let ordinal = ordinal.parse().ok().filter(|ordinal| *ordinal > 0)?;
    Some((client.parse().ok()?, ordinal))
}
