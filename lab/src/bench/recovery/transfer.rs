//! What one client does on one connection: requests, and the exact bytes that must come back.

#![deny(clippy::disallowed_methods)]

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::case::Condition;
use crate::chance::Chance;
use crate::http::hex;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One static document.
    Static,
    /// One document in chunks.
    Chunked,
    /// One static document, read slowly with a small buffer.
    Slow,
    /// Several documents, one after the other.
    KeepAlive,
    /// Several documents, asked for at once.
    Pipelined,
    /// A body that is sent back; may not be repeated.
    Upload,
    /// A body that is stored; may be repeated.
    Store,
    /// Pages of a session.
    Pages,
    /// Pages of a session without a length: PHP's and nginx's buffers decide where a chunk ends.
    Stream,
    /// Updates of a session, and pages that show them.
    Updates,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Static,
        Self::Chunked,
        Self::Slow,
        Self::KeepAlive,
        Self::Pipelined,
        Self::Upload,
        Self::Store,
        Self::Pages,
        Self::Stream,
        Self::Updates,
    ];
}

/// What must come back.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    /// A document of that name.
    Document(&'static str),
    /// The request's body.
    Body,
    /// Length and hash of the request's body.
    Receipt,
    /// The session's page after so many updates, with so much filling.
    Page { counter: u64, filling: usize },
}

/// One request and its answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exchange {
    /// The head, with its empty line.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    pub(super) expected: Expected,
    /// Neither read-only nor idempotent: once it has been sent, nobody may send it again.
    pub(super) once: bool,
    /// The name under which the application records it, if it counts.
    pub(super) update: Option<String>,
}

/// All that one client does.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transfer {
    pub(super) kind: Kind,
    /// The name of its session.
    pub(super) session: String,
    pub(super) exchanges: Vec<Exchange>,
    /// Bytes a second, both ways, at most.
    pub(super) rate: Option<u64>,
    pub(super) receive_buffer: Option<usize>,
}

impl Exchange {
    fn get(path: &str, expected: Expected) -> Self {
        Self { head: head("GET", path, ""), body: Vec::new(), expected, once: false, update: None }
    }

    /// The exact answer, and its length is known without it.
    pub(super) fn answer(&self, session: &str, documents: &dyn Fn(&str) -> Vec<u8>) -> Vec<u8> {
        match self.expected {
            Expected::Document(name) => documents(name),
            Expected::Body => self.body.clone(),
            Expected::Receipt => receipt(&self.body),
            Expected::Page { counter, filling } => page(session, counter, filling),
        }
    }

    fn answer_length(&self, session: &str) -> u64 {
        match self.expected {
            Expected::Document(name) => length(name),
            _ => self.answer(session, &|_| Vec::new()).len() as u64,
        }
    }
}

impl Transfer {
    /// Bytes of all bodies, both ways.
    pub(super) fn total(&self) -> u64 {
        let of = |exchange: &Exchange| exchange.body.len() as u64 + exchange.answer_length(&self.session);
        self.exchanges.iter().map(of).sum()
    }

    /// The same once more, by another session.
    pub(super) fn again(&self) -> Self {
        let session = format!("again-{}", self.session);
        let renamed = |exchange: &Exchange| Exchange {
            head: exchange.head.replace(&self.session, &session),
            ..exchange.clone()
        };
        Self {
            exchanges: self.exchanges.iter().map(renamed).collect(),
            session: session.clone(),
            ..self.clone()
        }
    }

    /// All requests are sent before the first answer is read.
    pub(super) fn pipelined(&self) -> bool {
        self.kind == Kind::Pipelined
    }

    pub(super) fn pick(chance: &mut Chance, condition: Condition, session: String) -> Self {
        let kind = pick(chance, &Kind::ALL);
        Self::of(kind, chance, condition, session)
    }

    pub(super) fn of(kind: Kind, chance: &mut Chance, condition: Condition, session: String) -> Self {
        let far = condition.far();
        let large = if far { "64k" } else { pick(chance, &["1m", "1m", "10m"]) };
        let large = if far && chance.happens(0.3) { "1m" } else { large };
        let exchanges = match kind {
            Kind::Static => vec![document("files", large)],
            Kind::Chunked => vec![document("chunked", large)],
            Kind::Slow => vec![document("files", if far { "64k" } else { "1m" })],
            Kind::KeepAlive | Kind::Pipelined => documents(chance, far),
            Kind::Upload => vec![upload(chance, far)],
            Kind::Store => (0..2).map(|place| store(chance, far, &format!("{session}-{place}"))).collect(),
            Kind::Pages => (0..3).map(|_| visit("view", 0, filling(chance), &session)).collect(),
            Kind::Stream => (0..3).map(|_| visit("stream", 0, filling(chance), &session)).collect(),
            Kind::Updates => updates(chance, &session),
        };
        let mut transfer = Self { kind, session, exchanges, rate: None, receive_buffer: None };
        // Near clients are held back, or all would be over before a server can be made to fail.
        if !far {
            transfer.rate = Some((transfer.total() * 1000 / (100 + chance.next_u64() % 100)).max(100_000));
            transfer.receive_buffer = Some(if kind == Kind::Slow { 8 << 10 } else { 32 << 10 });
        }
        transfer
    }
}

fn pick<T: Copy>(chance: &mut Chance, from: &[T]) -> T {
    let place = chance.next_u64() as usize % from.len().max(1);
    from.get(place).copied().unwrap_or_else(|| unreachable!("there is always something to choose from"))
}

fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: lab\r\nUser-Agent: lab\r\n{fields}\r\n")
}

/// A document's length, by its name.
pub(super) fn length(name: &str) -> u64 {
    crate::documents::FILES.iter().find(|(known, _)| *known == name).map_or(0, |(_, length)| *length)
}

fn document(place: &str, name: &'static str) -> Exchange {
    Exchange::get(&format!("/{place}/{name}"), Expected::Document(name))
}

fn documents(chance: &mut Chance, far: bool) -> Vec<Exchange> {
    let count = 3 + chance.next_u64() % 8;
    let names: &[&'static str] =
        if far { &["0", "1k", "1k", "64k"] } else { &["0", "1k", "64k", "64k", "1m"] };
    let mut one = |_| document(pick(chance, &["files", "chunked"]), pick(chance, names));
    (0..count).map(&mut one).collect()
}

fn body(chance: &mut Chance, far: bool) -> Vec<u8> {
    let most = if far { 100_000.0 } else { MOST_UPLOADED };
    let length = (chance.next_unit() * most) as usize + 1;
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&chance.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// `recovery.request_bytes` is 1 MiB.
const MOST_UPLOADED: f64 = 900_000.0;

fn upload(chance: &mut Chance, far: bool) -> Exchange {
    let body = body(chance, far);
    let fields = format!("Content-Length: {}\r\n", body.len());
    Exchange {
        head: head("POST", "/form", &fields),
        body,
        expected: Expected::Body,
        once: true,
        update: None,
    }
}

fn store(chance: &mut Chance, far: bool, name: &str) -> Exchange {
    let body = body(chance, far);
    let fields = format!("Content-Length: {}\r\n", body.len());
    let head = head("PUT", &format!("/app/store/{name}"), &fields);
    Exchange { head, body, expected: Expected::Receipt, once: false, update: None }
}

fn filling(chance: &mut Chance) -> usize {
    chance.next_u64() as usize % 150_000
}

fn visit(page: &str, counter: u64, filling: usize, session: &str) -> Exchange {
    let fields = format!("Cookie: PHPSESSID={session}\r\nX-Filling: {filling}\r\n");
    let expected = Expected::Page { counter, filling };
    Exchange { head: head("GET", &format!("/app/{page}"), &fields), ..Exchange::get("", expected) }
}

fn updates(chance: &mut Chance, session: &str) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    for counter in 1..=2 + chance.next_u64() % 3 {
        let (name, filling) = (format!("u{counter}"), filling(chance) / 4);
        let fields = format!(
            "Cookie: PHPSESSID={session}\r\nX-Filling: {filling}\r\nX-Update: {name}\r\nContent-Length: 0\r\n"
        );
        exchanges.push(Exchange {
            head: head("POST", "/app/increment", &fields),
            body: Vec::new(),
            expected: Expected::Page { counter, filling },
            once: true,
            update: Some(name),
        });
        exchanges.push(visit("view", counter, self::filling(chance), session));
    }
    exchanges
}

fn receipt(body: &[u8]) -> Vec<u8> {
    format!("{} {}\n", body.len(), hex(&Sha256::digest(body))).into_bytes()
}

/// As `app.php` makes it.
fn page(session: &str, counter: u64, filling: usize) -> Vec<u8> {
    let line = hex(&Sha256::digest(format!("{session} {counter}"))) + "\n";
    let mut page = format!("counter {counter}\n").into_bytes();
    page.extend(line.bytes().cycle().take(filling));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(condition: Condition) -> impl Iterator<Item = Transfer> {
        let mut chance = Chance::new(5);
        Kind::ALL.map(|kind| Transfer::of(kind, &mut chance, condition, "s".to_owned())).into_iter()
    }

    #[test]
    fn lengths_are_those_of_the_answers() {
        for transfer in all(Condition::Lan).chain(all(Condition::Rtt866)) {
            for exchange in &transfer.exchanges {
                let answer = exchange.answer("s", &|name| vec![0; length(name) as usize]);
                assert_eq!(answer.len() as u64, exchange.answer_length("s"), "{:?}", transfer.kind);
            }
            assert!(transfer.total() > 0, "{:?}", transfer.kind);
        }
    }

    #[test]
    fn only_bodies_that_change_something_may_not_be_repeated() {
        for transfer in all(Condition::Lan) {
            let once = transfer.exchanges.iter().any(|exchange| exchange.once);
            assert_eq!(once, matches!(transfer.kind, Kind::Upload | Kind::Updates), "{:?}", transfer.kind);
        }
    }

    #[test]
    fn pages_count_the_updates_before_them() {
        let updates = all(Condition::Lan).last().unwrap();
        let counters: Vec<u64> = updates
            .exchanges
            .iter()
            .map(|exchange| match exchange.expected {
                Expected::Page { counter, .. } => counter,
                _ => panic!("{exchange:?}"),
            })
            .collect();
        assert_eq!(counters[..4], [1, 1, 2, 2]);
    }
}
