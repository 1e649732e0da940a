//! Updates run again on an alternate without their state, one by one, before the transaction in progress (paper §4.3).

use cluster::control::{Prefix, RecoveryOrder, Replayed, Stretch, TakeIn};
use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};
use xxhash_rust::xxh3::xxh3_128;

use crate::world::{BACKEND_ISN, CLIENT_ISN, OFFER, World, segments};

const UPDATES: [&[u8]; 2] = [b"POST /a HTTP/1.1\r\n\r\n", b"PUT /b HTTP/1.1\r\n\r\n"];
const PENDING: &[u8] = b"GET /page HTTP/1.1\r\n\r\n";
const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc";
const CHANGED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n";
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
const ALTERNATE_ISN: Seq = Seq(u32::MAX - 90);

fn order(world: &World, p: usize) -> RecoveryOrder {
    let replayed = |name: &str, request: &[u8], status, same| Replayed {
        name: name.to_owned(),
        request_bytes: request.len(),
        status,
        same,
    };
    let mut order = world.order(1, 1, 2, BACKEND_ISN + 1 + p as u32, Vec::new());
    let all = [UPDATES[0], UPDATES[1], PENDING].concat();
    order.client_next = (CLIENT_ISN + 1 + all.len() as u32 + 500).0;
    order.replayed = vec![
        replayed("a", UPDATES[0], 201, Some(Stretch { bytes: 3, hash: xxh3_128(b"abc") })),
        replayed("b", UPDATES[1], 204, None),
    ];
    order.replay = all;
    if p > 0 {
        let logged = &b"0123456789"[..p - HEAD.len()];
        let hashes = vec![Stretch { bytes: logged.len() as u64, hash: xxh3_128(logged) }];
        let (head, body_bytes) = (HEAD.to_vec(), logged.len() as u64);
        order.take_in =
            TakeIn::Prefix(Prefix { head, head_complete: true, body_bytes, hashes, ..Prefix::default() });
    }
    order
}

/// The alternate's side: what it has got, and how far it has answered.
struct Alternate {
    isn: Seq,
    got: Vec<u8>,
    sent: u32,
}

impl Alternate {
    /// Failed, un-spliced, connected to the alternate.
    fn new(world: &mut World, p: usize) -> Self {
        world.splice(OFFER, OFFER);
        world.sent();
        let order = order(world, p);
        world.engine.handle_order(world.now, order);
        let sent = world.sent();
        let syn = segments(&sent).into_iter().find(|sent| sent.flags().syn());
        let isn = syn.map(|syn| syn.seq()).unwrap();
        let syn_ack = world.syn_ack(2, ALTERNATE_ISN, isn + 1, OFFER).build();
        let mut alternate = Self { isn, got: Vec::new(), sent: 0 };
        let sent = world.receive(&syn_ack, Stage::Raw);
        alternate.get(world, &sent);
        alternate
    }

    fn get(&mut self, world: &World, sent: &[Vec<u8>]) {
        for segment in segments(sent).iter().filter(|segment| segment.destination() == world.backend(2)) {
            let at = segment.seq().since(self.isn + 1) as usize;
            if at == self.got.len() {
                self.got.extend_from_slice(segment.payload());
            }
        }
    }

    /// What reaches the client of it.
    fn say(&mut self, world: &mut World, data: &'static [u8]) -> Vec<u8> {
        let segment = SegmentBuilder {
            ack: Some(self.isn + 1 + self.got.len() as u32),
            ..world.backend_segment(2, ALTERNATE_ISN + 1 + self.sent, data, 2000)
        };
        self.sent += data.len() as u32;
        let mut sent = world.receive(&segment.build(), Stage::Raw);
        sent.extend(world.sent());
        self.get(world, &sent);
        let to_client = segments(&sent).into_iter().filter(|sent| sent.destination() == world.client());
        to_client.flat_map(|sent| sent.payload().to_vec()).collect()
    }
}

#[test]
fn each_update_waits_for_the_answer_to_the_one_before_and_the_client_sees_none() {
    for (v6, kernel) in crate::world::ALL {
        let mut world = World::new(v6, kernel);
        let mut alternate = Alternate::new(&mut world, 0);
        assert_eq!(alternate.got, UPDATES[0]);
        let (one, other) = CREATED.split_at(20);
        assert!(alternate.say(&mut world, one).is_empty());
        assert_eq!(alternate.got, UPDATES[0]);
        assert!(alternate.say(&mut world, other).is_empty());
        assert_eq!(alternate.got, UPDATES.concat());
        assert_eq!(world.state().unwrap(), "recovering");
        assert!(alternate.say(&mut world, CHANGED).is_empty());
        assert_eq!(alternate.got, [UPDATES[0], UPDATES[1], PENDING].concat());
        assert!(world.state().unwrap().starts_with("spliced"));
        assert_eq!(world.counter("connections_replayed"), 1);
    }
}

/// The splice is aligned behind all that was taken in.
#[test]
fn the_transaction_in_progress_goes_on_where_the_client_is() {
    for kernel in [true, false] {
        let mut world = World::new(false, kernel);
        let mut alternate = Alternate::new(&mut world, HEAD.len() + 4);
        alternate.say(&mut world, CREATED);
        assert!(alternate.say(&mut world, CHANGED).is_empty());
        assert_eq!(alternate.got, [UPDATES[0], UPDATES[1], PENDING].concat());
        assert!(alternate.say(&mut world, HEAD).is_empty());
        assert_eq!(alternate.say(&mut world, b"0123456789"), b"456789");
        assert!(world.state().unwrap().starts_with("spliced"));
    }
}

#[test]
fn an_alternate_that_answers_an_update_otherwise_is_given_up_before_the_next_one() {
    let wrong: [&'static [u8]; 2] = [
        b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabX",
    ];
    for answer in wrong {
        let mut world = World::new(false, true);
        let mut alternate = Alternate::new(&mut world, 0);
        assert!(alternate.say(&mut world, answer).is_empty());
        assert_eq!((alternate.got.as_slice(), world.counter("replays_differ")), (UPDATES[0], 1));
        assert_eq!((world.counter("alternates_failed"), world.state().unwrap().as_str()), (1, "recovering"));
    }
}

#[test]
fn an_alternate_that_closes_during_the_replay_is_given_up() {
    let mut world = World::new(false, true);
    let mut alternate = Alternate::new(&mut world, 0);
    alternate.say(&mut world, CREATED);
    let fin = world.backend_segment(2, ALTERNATE_ISN + 1 + alternate.sent, b"", 2000);
    let ack = Some(alternate.isn + 1 + alternate.got.len() as u32);
    world.receive(&SegmentBuilder { flags: Flags::FIN, ack, ..fin }.build(), Stage::Raw);
    assert_eq!(world.counter("alternates_failed"), 1);
}

/// What was sent of the replay comes again until it is acknowledged.
#[test]
fn a_lost_update_is_sent_again() {
    let mut world = World::new(false, true);
    let alternate = Alternate::new(&mut world, 0);
    world.pass(3000);
    world.engine.handle_timeout(world.now);
    let sent = world.sent();
    let again = |sent: &TcpSegment<'_>| sent.seq() == alternate.isn + 1 && sent.payload() == UPDATES[0];
    assert!(segments(&sent).iter().any(again));
}
