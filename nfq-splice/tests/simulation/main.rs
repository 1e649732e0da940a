//! Deterministic simulation of the proxy's engine between independent TCP stacks, with checkers. Beside random runs it sweeps
//! a failure over every byte of a small exchange, and the daemon's death over every step of one ([`sweep`]).
//!
//! One seed is one run: everything, the clock included, is computed from it. `SIM_SEEDS=N` runs N seeds, from
//! `SIM_FIRST` on; `SIM_SEED=S` replays one and shows every packet.
//!
//! **What is real**: the engine, the recovery manager's engine, packet translation; clients and backends are smoltcp, over IPv4
//! or IPv6, in front of which a shim does what other stacks do and smoltcp 0.12 does not (RFC 5961 checks, PAWS, window probes).
//! **What is modelled**: the proxy's kernel ([`kernel`]), its fast path ([`sim::fast_path`], over IPv4, on or off; with
//! the handshakes that it conducts, where the daemon translates), the logger with
//! its log ([`log`]), middleboxes ([`middlebox`]), links, time.
//!
//! **Fault budget**. Each link (client–proxy, proxy–logger, logger–backend) may lose, duplicate, corrupt and reorder
//! packets, [`scenario::FAULTS_PER_LINK`] at most, then it is clean: so progress is certain and can be demanded. At most
//! two of three backends fail (silent, killed with FIN or RST, or wrongly suspected), at a time or after so many logged
//! bytes; the report comes late. The daemon dies at most twice, at any time or *at any step*: with a packet in hand, or between
//! two of its actions; it stays away for up to 0.7 s and then knows what conntrack knows; set-ups go on, where the client
//! repeats all it has sent; now and then the key of its secrets is lost with it. The kernel may refuse any splice, the fast path any connection. One backend may answer with another body byte, another version, or
//! without ranges. Middleboxes take options out, move them, add unknown ones, cut segments anew and mark congestion. Blind
//! attackers send up to 40 packets in a client's name: RST, SYN, ACK and data, anywhere or near its numbers, never right in both; and
//! ICMP errors: soft ones, and *too big* about what is not in flight. The daemon takes packets in batches: what it does comes after
//! the verdicts of some later packets.
//! Control messages are late, but neither lost nor reordered, except those that a dying daemon takes with it.
//! Not simulated: true ICMP errors, GSO packets, more than one proxy or logger, several engines of one proxy, a transactionalizer that
//! reports wrongly, a client that reuses its port, attackers that hit an entry of conntrack in its last states.
//!
//! **What must hold**: each answer is byte for byte that of one execution, and complete, unless a reset is the specified
//! outcome, and then it comes; no update is run more often than it was asked for; nobody is sent more than the window it
//! announced (after a failure: than that and one segment), and no window is translated into a larger or a needlessly smaller
//! one; timestamps seen by the client never go back, and nobody takes a segment for old; nothing from a fenced backend passes;
//! nothing untranslated and no bad checksum leaves the proxy; every table of engine and manager is empty in the end, no timer
//! is left; nothing panics.

#![allow(clippy::unwrap_used, reason = "what cannot be in a model is a bug of the test, and ends it")]

mod log;
mod scenario;
mod setup_faults;
mod sweep;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::{addresses, apps, checks, content, hosts, kernel, middlebox, rng, windows};
use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// What happened in a run, or in many.
#[derive(Debug, Default)]
struct Tally {
    resplices: u32,
    crashes: u32,
    /// Packets that only the fast path saw, and connections that it had alone at first.
    fast_packets: u64,
    young: u32,
    /// SYNs that the fast path's program answered, and acknowledgements that it took.
    answered: u64,
    taken: u64,
    handed_over: u64,
    /// Recoveries of connections with a hole in the log.
    bridged: u32,
    /// Clients that could be cut off, by reason.
    excused: BTreeMap<String, u32>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.resplices += other.resplices;
        self.crashes += other.crashes;
        self.fast_packets += other.fast_packets;
        self.young += other.young;
        self.answered += other.answered;
        self.taken += other.taken;
        self.handed_over += other.handed_over;
        self.bridged += other.bridged;
        for (why, times) in other.excused {
            *self.excused.entry(why).or_default() += times;
        }
    }
}

/// `Err`: what went wrong, and the whole story.
fn run(seed: u64, trace: bool) -> Result<Tally, (String, Vec<String>)> {
    let mut world = World::new(seed, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| Err("panic".to_owned()));
    let mut story = vec![format!("{:#?}", world.scenario)];
    story.extend(world.trace.take().unwrap_or_default());
    story.push(format!("counters: {:?}", world.counters()));
    story.extend(world.clients.iter().map(|client| format!("client {}: {}", client.port, client.progress())));
    match outcome {
        Ok(()) => {
            if trace {
                for line in &story {
                    println!("{line}");
                }
            }
            let mut tally = Tally {
                resplices: world.resplices,
                crashes: world.crashes,
                fast_packets: world.fast_packets,
                young: world.young,
                answered: world.answered().syns,
                taken: world.answered().acks,
                handed_over: world.answered().handed_over,
                bridged: world.bridged,
                ..Tally::default()
            };
            for why in world.excuses.values() {
                *tally.excused.entry(kind_of(why)).or_default() += 1;
            }
            Ok(tally)
        }
        Err(why) => Err((why, story)),
    }
}

/// Without the particulars.
fn kind_of(why: &str) -> String {
    why.split(['(', ':']).next().unwrap_or(why).trim().to_owned()
}

#[test]
fn every_seed_holds() {
    if let Some(seed) = number("SIM_SEED") {
        if let Err((why, story)) = run(seed, true) {
            for line in &story {
                println!("{line}");
            }
            panic!("seed {seed}: {why}");
        }
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let seeds = number("SIM_SEEDS").unwrap_or(300);
    let (mut tally, mut failed) = (Tally::default(), Vec::new());
    for seed in first..first + seeds {
        match run(seed, false) {
            Ok(more) => tally.add(more),
            Err((why, _)) => {
                println!(
                    "seed {seed}: {why}\n  SIM_SEED={seed} cargo test -p nfq-splice --test simulation -- --nocapture"
                );
                failed.push(seed);
            }
        }
        if failed.len() >= number("SIM_FAILURES").unwrap_or(1) as usize {
            break;
        }
    }
    println!("{seeds} seeds from {first}: {tally:#?}");
    assert!(failed.is_empty(), "failed: {failed:?}");
}
