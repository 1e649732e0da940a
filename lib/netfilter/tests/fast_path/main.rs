//! The fast path's program, run by the kernel on any packets, beside what is promised of it (`sim::fast_path`): equal verdicts,
//! equal bytes, equal records. What was found once is in `corpus`, a file a case.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod handshakes;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use case::{Case, Packet};
use common::Net;
use handshakes::{Handshakes, expected, owned_until};
use netfilter::fast_path::{FastPath, Frame, Owners, Ring, Tried};
use nft_rules::placement::SEED;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sim::fast_path::FastPath as Reference;

/// Of both wires, bytes.
const MTU: usize = 1500;
/// Of the owner.
const THREADS: u16 = 3;
/// What has an entry is shown to conntrack once a second: what takes longer here may see that or not.
const QUICK: Duration = Duration::from_millis(900);

struct Interface {
    number: u32,
    address: [u8; 6],
    neighbour: [u8; 6],
}

/// A router between client and server that knows both as neighbours.
struct Router {
    net: Net,
    interfaces: [Interface; 2],
    fast: FastPath,
    /// By thread.
    rings: Mutex<Vec<Ring>>,
    /// Connections that had ended, and in whose place another was begun.
    displaced: AtomicU32,
    /// Resets that were handed over.
    resets: AtomicU32,
}

fn address(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// To both.
fn add(fast: &FastPath, reference: &mut Reference, case: &Case) -> (bool, bool) {
    let entry = &case.entry;
    match &case.recorded {
        Some(recorded) => {
            (fast.add_recorded(entry, recorded).unwrap(), reference.add_recorded(entry, recorded))
        }
        None => (fast.add(entry).unwrap(), reference.add(entry)),
    }
}

impl Router {
    fn up(name: &str) -> Option<Self> {
        let net = Net::up(name)?;
        let interface = |node: &str, neighbour: &str| {
            let show = |what| net.run("r", &format!("cat /sys/class/net/r{node}/{what}"));
            let of_host = net.run(node, "cat /sys/class/net/eth0/address");
            let permanent =
                format!("ip neigh replace {neighbour} lladdr {} dev r{node} nud permanent", of_host.trim());
            net.run("r", &permanent);
            Interface {
                number: show("ifindex").trim().parse().unwrap(),
                address: address(&show("address")),
                neighbour: address(&of_host),
            }
        };
        let interfaces = [interface("c", "10.0.1.2"), interface("s", "10.0.2.2")];
        let fast = FastPath::open(10, Owners { threads: THREADS, seed: SEED }).unwrap();
        let rings = Mutex::new((0..THREADS).map(|thread| fast.ring(thread).unwrap()).collect());
        Some(Self { net, interfaces, fast, rings, displaced: AtomicU32::new(0), resets: AtomicU32::new(0) })
    }

    /// What is done with it; what leaves, leaves to the host that it is for.
    fn leaves(&self, packet: &Packet) -> Tried {
        let [client, server] = &self.interfaces;
        let from = if packet.to_server { client } else { server };
        let mut bytes = [&from.address[..], &from.neighbour, &[8, 0]].concat();
        bytes.extend(&packet.bytes);
        let frame = Frame { bytes: &bytes, interface: from.number, segment: packet.segment };
        let tried = self.fast.try_out(&frame).unwrap();
        let Tried::Sent(sent) = &tried else { return tried };
        let to = if sent[30..34] == [10, 0, 2, 2] { server } else { client };
        assert_eq!(sent[..14], [&to.neighbour[..], &to.address, &[8, 0]].concat(), "the Ethernet header");
        Tried::Sent(sent[14..].to_vec())
    }

    /// Since it was asked last; each with the thread that it is for.
    fn handed_over(&self) -> Vec<(u16, Vec<u8>)> {
        let mut all = Vec::new();
        for (thread, ring) in (0..).zip(self.rings.lock().unwrap().iter_mut()) {
            ring.receive(usize::MAX, |packet| all.push((thread, packet.to_vec())));
        }
        all
    }

    fn agrees(&self, case: &Case) -> Result<(), TestCaseError> {
        let begun = Instant::now();
        let client: SocketAddr = case.entry.client;
        let mut reference = Reference::default();
        let until = if case.heard { Duration::MAX } else { Duration::ZERO };
        self.fast.answer(&owned_until(until)).unwrap();
        reference.answer(&owned_until(until));
        for (number, packet) in case.packets.iter().enumerate() {
            if number == 0 || number == case.again {
                let added = add(&self.fast, &mut reference, case);
                prop_assert_eq!(added.0, added.1);
            }
            let expected = expected(&mut reference, case.now, packet);
            let got = (self.leaves(packet), self.handed_over());
            if begun.elapsed() > QUICK {
                break;
            }
            self.resets.fetch_add(got.1.len() as u32, Ordering::Relaxed);
            prop_assert_eq!(got, expected, "{:?}", packet);
            prop_assert_eq!(
                self.fast.look(client).unwrap().unwrap_or_default(),
                reference.passed(client),
                "after {:?}",
                packet
            );
        }
        self.fast.remove(client).unwrap();
        Ok(())
    }
}

/// Kept cases, then new ones of so many bytes at most.
fn try_all(corpus: &str, bytes: usize, agrees: impl Fn(Vec<u8>) -> Result<(), TestCaseError>) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast_path").join(corpus);
    for file in std::fs::read_dir(corpus).unwrap() {
        let file = file.unwrap().path();
        agrees(std::fs::read(&file).unwrap()).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    }
    let cases = std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(&prop::collection::vec(any::<u8>(), 0..bytes), agrees).unwrap();
}

#[test]
fn the_program_does_what_is_promised() {
    let Some(router) = Router::up("tp") else { return };
    router.net.inside("r", || try_all("corpus", 400, |bytes| router.agrees(&Case::of(&bytes))));
    let resets = router.resets.load(Ordering::Relaxed);
    println!("{resets} resets handed over");
    assert!(resets > 5, "hardly anything was tried: {resets}");
}

#[test]
fn the_program_conducts_handshakes_as_promised() {
    let Some(router) = Router::up("th") else { return };
    router.net.inside("r", || try_all("handshakes", 500, |bytes| router.conducts(&Handshakes::of(&bytes))));
    let answered = router.fast.answered().unwrap();
    let displaced = router.displaced.load(Ordering::Relaxed);
    println!("{answered:?}, {displaced} displaced");
    assert!(displaced > 50, "{displaced}");
    assert!(
        answered.syns > 500 && answered.acks > 30 && answered.handed_over > 50,
        "hardly anything was tried: {answered:?}"
    );
}
