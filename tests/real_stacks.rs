//! Kernel clients and kernel servers with SACK, timestamps, window scaling and ECN each on and off, over a link that loses
//! and reorders, on both paths, with the servers failing in the middle of the answers. The servers of one round may differ:
//! then a connection goes on at an alternate whose options are not those that were negotiated.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::http::{Behaviour, Connection};
use lab::settings::{LinkSettings, Path, Settings, nodes};
use lab::testing::in_lab;
use lab::{Fault, Lab, Node};
use std::process::Command;

/// Each on or off: as many kinds of client.
const OPTIONS: [&str; 4] = ["tcp_sack", "tcp_timestamps", "tcp_window_scaling", "tcp_ecn"];
const CLIENTS: u8 = 1 << OPTIONS.len();
/// Where in the answer the servers fail, bytes.
const FAILS_AT: u64 = 100_000;
/// Small buffers, so that a server that fails has not sent everything yet.
const BUFFER: usize = 64 << 10;

/// Which of [`OPTIONS`] a host uses, a bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stack(u8);

const ALL_ON: Stack = Stack(CLIENTS - 1);
const ALL_OFF: Stack = Stack(0);
/// What a socket tells: of ECN the proxy decides, who does not know the server yet.
const WITHOUT_ECN: Stack = Stack(0b0111);

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = OPTIONS.iter().enumerate().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name);
        f.debug_set().entries(on).finish()
    }
}

impl Stack {
    fn has(self, bit: usize) -> bool {
        self.0 >> bit & 1 == 1
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// For the connections that the node makes or accepts from now on.
    fn apply(self, lab: &Lab, node: Node) -> Result<()> {
        (0..OPTIONS.len()).try_for_each(|bit| {
            let value = if self.has(bit) { "1" } else { "0" };
            lab.netns(node).sysctl(&format!("net/ipv4/{}", OPTIONS[bit]), value)
        })
    }

    /// What `ss` says that a socket uses.
    fn of_socket(line: &str) -> Self {
        let uses = |word: &str| line.split_whitespace().any(|found| found == word);
        let scaled = line.contains(" wscale:");
        Self(u8::from(uses("sack")) | u8::from(uses("ts")) << 1 | u8::from(scaled) << 2)
    }
}

/// The sockets of a node with this state of things: local and peer address, and what they use.
fn sockets(lab: &Lab, node: Node, end: &str) -> Result<Vec<(SocketAddr, SocketAddr, Stack)>> {
    let filter = ["state", "established", end];
    let text = lab.netns(node).run(Command::new("ss").args(["-tinoHO"]).args(filter))?;
    let socket = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let (local, peer) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((local, peer, Stack::of_socket(line)))
    };
    text.lines().map(|line| socket(line).with_context(|| line.to_owned())).collect()
}

/// One client of each kind against these two servers.
fn round(lab: &Lab, servers: [Stack; 2], fault: Option<Fault>) -> Result<()> {
    for (node, stack) in Node::BACKENDS.into_iter().zip(servers) {
        stack.apply(lab, node)?;
    }
    let mut clients = Vec::new();
    for kind in (0..CLIENTS).map(Stack) {
        kind.apply(lab, Node::Client)?;
        let behaviour = Behaviour { receive_buffer: Some(BUFFER), ..Behaviour::default() };
        clients.push((kind, lab.open(behaviour)?));
    }
    clients_have_what_they_offered(lab, &clients)?;
    let kinds = clients.iter().map(|(kind, connection)| Ok((connection.local()?, *kind)));
    let kinds: BTreeMap<SocketAddr, Stack> = kinds.collect::<Result<_>>()?;
    let gate = Barrier::new(clients.len() + 1);
    thread::scope(|scope| {
        let talks: Vec<_> = clients
            .into_iter()
            .map(|(kind, connection)| {
                let gate = &gate;
                scope
                    .spawn(move || talk(connection, fault.map(|_| gate)).with_context(|| format!("{kind:?}")))
            })
            .collect();
        if let Some(fault) = fault {
            gate.wait();
            let failed =
                servers_have_what_both_want(lab, servers, &kinds).and_then(|()| lab.fail(Node::B1, fault));
            // Also after an error, for the clients wait.
            gate.wait();
            failed?;
        }
        talks.into_iter().try_for_each(|talk| talk.join().map_err(|_| anyhow!("a client panicked"))?)
    })
}

/// Downloads and an upload; all clients are in the middle of an answer when the server fails.
fn talk(mut connection: Connection, gate: Option<&Barrier>) -> Result<()> {
    let mut passed = false;
    let document = if gate.is_some() { "/files/1m" } else { "/files/64k" };
    let answer = connection.get_watched(document, &mut |bytes| {
        if let Some(gate) = gate.filter(|_| bytes >= FAILS_AT && !passed) {
            passed = true;
            gate.wait();
            gate.wait();
        }
        Ok(())
    });
    if let Some(gate) = gate.filter(|_| !passed) {
        // The others are not to wait for one that failed.
        gate.wait();
        gate.wait();
    }
    answer?.check(document)?;
    let body: Vec<u8> = (0..50_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    connection.post_echoed(&body)?;
    connection.get("/chunked/64k")?.check("/chunked/64k")
}

/// The proxy knows no server yet: it accepts whatever is offered.
fn clients_have_what_they_offered(lab: &Lab, clients: &[(Stack, Connection)]) -> Result<()> {
    let sockets = sockets(lab, Node::Client, "dport = :80")?;
    for (kind, connection) in clients {
        let local = connection.local()?;
        let found =
            sockets.iter().find(|(end, ..)| *end == local).context("a socket that ss does not see")?;
        let offered = kind.and(WITHOUT_ECN);
        ensure!(found.2 == offered, "{kind:?} offers {offered:?}, its socket uses {:?}", found.2);
    }
    Ok(())
}

/// A server sees the client's own offer.
fn servers_have_what_both_want(
    lab: &Lab,
    servers: [Stack; 2],
    clients: &BTreeMap<SocketAddr, Stack>,
) -> Result<()> {
    let mut seen = 0;
    for (node, stack) in Node::BACKENDS.into_iter().zip(servers) {
        for (_, peer, uses) in sockets(lab, node, "sport = :8080")? {
            // Sockets of earlier rounds may linger.
            let Some(client) = clients.get(&peer) else { continue };
            let both = client.and(stack).and(WITHOUT_ECN);
            ensure!(uses == both, "{node} with {stack:?} uses {uses:?} with a client with {client:?}");
            seen += 1;
        }
    }
    ensure!(seen == clients.len(), "{seen} connections at the servers");
    Ok(())
}

fn settings(path: Path) -> Settings {
    let link =
        LinkSettings { rtt: Duration::from_millis(2), loss: 0.01, reorder: 0.01, ..LinkSettings::default() };
    Settings { link, path, nodes: nodes(&[], true), send_buffer: Some(BUFFER as u64), ..Settings::default() }
}

/// Everything on, everything off, each alone off, each alone on; then servers that differ from each other and fail.
fn covering(path: Path) -> Result<()> {
    in_lab(&settings(path), |lab| {
        let alone = (0..OPTIONS.len()).map(|bit| Stack(1 << bit));
        let all_but = (0..OPTIONS.len()).map(|bit| Stack(ALL_ON.0 & !(1 << bit)));
        for server in [ALL_ON, ALL_OFF].into_iter().chain(alone).chain(all_but) {
            round(lab, [server; 2], None).with_context(|| format!("servers with {server:?}"))?;
        }
        for servers in [[ALL_ON, ALL_ON], [ALL_OFF, ALL_OFF], [ALL_ON, ALL_OFF], [ALL_OFF, ALL_ON]] {
            round(lab, servers, Some(Fault::Reset)).with_context(|| format!("failing {servers:?}"))?;
            lab.heal(Node::B1)?;
            lab.await_backends()?;
        }
        round(lab, [ALL_ON, ALL_OFF], Some(Fault::Kill)).context("killed servers")?;
        Ok(())
    })
}

#[test]
fn on_the_kernel_path() -> Result<()> {
    covering(Path::Kernel)
}

#[test]
fn on_the_userspace_path() -> Result<()> {
    covering(Path::Userspace)
}

/// All kinds of clients against all pairs of kinds of servers, the first of which fails: 512 rounds, both paths.
/// `STACKS_FIRST=N` begins with round N, `STACKS_COUNT=M` does M of them.
#[test]
#[ignore = "many minutes: cargo test -p lab --test real_stacks -- --ignored --nocapture"]
fn every_combination() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (first, count) = (number("STACKS_FIRST").unwrap_or(0), number("STACKS_COUNT").unwrap_or(usize::MAX));
    let rounds = first..first.saturating_add(count);
    for (base, path) in [(0, Path::Kernel), (256, Path::Userspace)] {
        let wanted: Vec<u8> =
            (0..=u8::MAX).filter(|pair| rounds.contains(&(base + usize::from(*pair)))).collect();
        if wanted.is_empty() {
            continue;
        }
        in_lab(&settings(path), |lab| {
            for pair in wanted {
                let servers = [Stack(pair >> 4), Stack(pair & 15)];
                round(lab, servers, Some(Fault::Reset)).with_context(|| format!("{path:?}: {servers:?}"))?;
                lab.heal(Node::B1)?;
                lab.await_backends()?;
                eprintln!("round {}: {path:?} {servers:?}", base + usize::from(pair));
            }
            Ok(())
        })?;
    }
    Ok(())
}
