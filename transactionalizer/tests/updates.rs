//! Where backends have each their own state, a failed connection is reported with the updates that an alternate lacks.

#![allow(clippy::unwrap_used)]

mod common;

use cluster::control::{ConnectionReport, Stretch};
use common::{CONFIG, Conn, World, b1, b2, conn, get, response};
use packet::{Flags, Seq};
use xxhash_rust::xxh3::xxh3_128;

fn separate() -> World {
    with("")
}

fn with(recovery: &str) -> World {
    let config = CONFIG.replace("[pool.all]\n", "[pool.all]\nstate = \"separate\"\n");
    World::with(&config.replace("[recovery]\n", &format!("[recovery]\n{recovery}")))
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Both streams of a connection, as far as they have come.
struct Talk {
    conn: Conn,
    asked: u32,
    answered: u32,
}

impl Talk {
    fn open(world: &mut World, conn: Conn) -> Self {
        world.open(conn);
        Self { conn, asked: 0, answered: 0 }
    }

    fn ask(&mut self, world: &mut World, request: &[u8]) {
        world.client(self.conn, self.asked, request, self.answered);
        self.asked += request.len() as u32;
    }

    fn answer(&mut self, world: &mut World, response: &[u8]) {
        world.backend(self.conn, self.answered, response, self.asked);
        self.answered += response.len() as u32;
        world.client(self.conn, self.asked, b"", self.answered);
    }

    fn exchange(&mut self, world: &mut World, request: &[u8], bytes: usize) {
        self.ask(world, request);
        self.answer(world, &response(bytes));
    }

    /// Its backend dies while a page is outstanding.
    fn fail(mut self, world: &mut World) -> ConnectionReport {
        self.ask(world, &get("/last"));
        world.actions.clear();
        world.backend_flags(self.conn, Flags::RST, self.answered, b"", self.asked);
        world.reports()[0].2.clone()
    }
}

/// Two updates with a page between them, and a page outstanding.
fn updated(world: &mut World) -> ConnectionReport {
    let mut talk = Talk::open(world, conn(1, b1()));
    talk.exchange(world, &post("/one", "1"), 3);
    talk.exchange(world, &get("/page"), 100);
    talk.exchange(world, &post("/two", "22"), 0);
    talk.fail(world)
}

/// The alternate's connection: S − R − 1, the updates and what is outstanding replayed.
fn alternate(report: &ConnectionReport, backend: std::net::SocketAddr) -> (Conn, Vec<Vec<u8>>) {
    let updates = report.updates.iter().flat_map(|updates| &updates.answered);
    let replay = updates.map(|update| update.bytes.clone());
    let replay: Vec<_> = replay.chain(report.pending.iter().map(|request| request.bytes.clone())).collect();
    let isn = Seq(report.client_next) - replay.concat().len() as u32 - 1;
    (Conn { client_isn: isn, ..conn(1, backend) }, replay)
}

fn ordinals(report: &ConnectionReport) -> Vec<(u32, String)> {
    let answered = &report.updates.as_ref().unwrap().answered;
    answered.iter().map(|update| (update.ordinal, update.summary.clone())).collect()
}

#[test]
fn updates_are_kept_with_their_answers_and_reads_are_not() {
    let report = updated(&mut separate());
    assert_eq!((report.t_l, report.unrecoverable.as_deref()), (3, None));
    assert_eq!(ordinals(&report), [(1, "POST /one".to_owned()), (3, "POST /two".to_owned())]);
    let updates = report.updates.unwrap();
    assert_eq!(updates.answered[0].bytes, post("/one", "1"));
    assert_eq!((updates.answered[0].status, updates.ran_at), (200, vec![b1()]));
    let body = |bytes: usize| {
        let all = response(bytes);
        let hash = xxh3_128(&all[all.len() - bytes..]);
        Some(Stretch { bytes: bytes as u64, hash })
    };
    assert_eq!((updates.answered[0].body, updates.answered[1].body), (body(3), body(0)));
}

#[test]
fn where_state_is_shared_nothing_is_kept() {
    assert_eq!(updated(&mut World::new()).updates, None);
}

#[test]
fn on_the_alternate_replayed_updates_are_no_new_ones_and_ordinals_go_on() {
    let mut world = separate();
    let first = updated(&mut world);
    let (conn, replay) = alternate(&first, b2());
    let mut talk = Talk::open(&mut world, conn);
    for request in &replay {
        talk.exchange(&mut world, request, 3);
    }
    talk.exchange(&mut world, &post("/three", "333"), 3);
    let second = talk.fail(&mut world);
    assert_eq!(second.t_l, first.t_l + 2);
    let three = (first.t_l + 2, "POST /three".to_owned());
    assert_eq!(ordinals(&second), [ordinals(&first), vec![three]].concat());
    assert_eq!(second.updates.unwrap().ran_at, [b1(), b2()]);
}

/// The manager that is told again must know that the alternate may have run them.
#[test]
fn a_report_that_is_told_again_names_the_alternates_that_were_asked() {
    let mut world = separate();
    let first = updated(&mut world);
    let (conn, _) = alternate(&first, b2());
    world.open(conn);
    let told: Vec<_> = world.engine.unended().collect();
    assert_eq!(told[0].connections[0].updates.as_ref().unwrap().ran_at, [b1(), b2()]);
}

#[test]
fn beyond_the_bounds_the_connection_is_not_recoverable() {
    for limit in ["replay_transactions = 1\n", "replay_bytes = 100\n"] {
        let mut world = with(limit);
        let report = updated(&mut world);
        let reason = report.unrecoverable.unwrap();
        assert!(reason.contains(limit.split(' ').next().unwrap()), "{reason}");
        assert_eq!((world.counter("replay_limit_lost"), report.updates.unwrap().answered.len()), (1, 0));
    }
    let mut world = with("replay_transactions = 2\nreplay_bytes = 200\n");
    assert_eq!(updated(&mut world).unrecoverable, None);
}

/// Only its beginning would be there.
#[test]
fn an_answered_update_that_was_not_kept_whole_cannot_be_replayed() {
    let mut world = separate();
    let mut talk = Talk::open(&mut world, conn(1, b1()));
    let large = post("/large", &"x".repeat(70_000));
    for part in large.chunks(10_000) {
        talk.ask(&mut world, part);
        world.backend(talk.conn, 0, b"", talk.asked);
    }
    talk.answer(&mut world, &response(3));
    let reason = talk.fail(&mut world).unrecoverable.unwrap();
    assert!(reason.contains("recovery.request_bytes"), "{reason}");
}

#[test]
fn kept_updates_count_as_kept_bytes_until_they_are_forgotten() {
    let mut world = separate();
    let kept = |world: &World| world.engine.status().counters["kept_bytes_now"];
    let mut talk = Talk::open(&mut world, conn(1, b1()));
    let before = kept(&world);
    talk.exchange(&mut world, &post("/one", &"x".repeat(5000)), 3);
    assert!(kept(&world) > before + 5000);
    let client = talk.conn.flow.client;
    talk.fail(&mut world);
    assert!(kept(&world) > 5000, "the client's next connection may need them");
    world.engine.handle_ended(client, None);
    assert!(kept(&world) < 5000);
}
