//! Attackers on the client's side of the proxy, while others download: floods of SYNs, blind resets and blind data.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and files")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::Behaviour;
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::topology::{PORT, VIP};
use lab::{Daemon, Lab, Node};
use netfilter::conntrack::{Conntrack, TcpState};
use netfilter::raw::RawSender;
use packet::{Flags, SegmentBuilder, Seq, SynOptions};

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(VIP), PORT);
type Counters = BTreeMap<String, u64>;

const SYNS: u32 = 50_000;
/// SYNs sent before somebody else's transfer is looked at.
const WAVE: u32 = 5000;

fn sender(lab: &Lab) -> Result<RawSender> {
    lab.netns(Node::Client).within(|| Ok(RawSender::open(0)?))
}

/// Well spread numbers, the same in each run.
fn scatter(n: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b1) ^ n.wrapping_mul(0x85eb_ca6b).rotate_left(15)
}

/// A host that does not exist, in 198.18.0.0/15 (RFC 2544).
fn nobody(n: u32) -> SocketAddr {
    let random = scatter(n);
    let address = Ipv4Addr::from(0xc612_0000 | (random & 0x1_ffff));
    SocketAddr::new(IpAddr::V4(address), (random >> 16) as u16 | 1024)
}

fn syn_of_nobody(n: u32) -> Vec<u8> {
    let syn = SynOptions { mss: Some(1460), window_scale: Some(7), ..SynOptions::default() };
    let bare = SegmentBuilder::new(nobody(n), SERVICE);
    SegmentBuilder { seq: Seq(scatter(n)), flags: Flags::SYN, window: 64_240, syn: Some(syn), ..bare }.build()
}

/// With the options of Linux, in its order.
fn linux_syn_of_nobody(n: u32) -> Vec<u8> {
    let syn = SynOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamp: Some(scatter(!n)),
    };
    let bare = SegmentBuilder::new(nobody(n), SERVICE);
    let timestamps = Some((scatter(!n), 0));
    let (seq, syn) = (Seq(scatter(n)), Some(syn));
    SegmentBuilder { seq, flags: Flags::SYN, window: 64_240, syn, timestamps, ..bare }.build()
}

/// Such a host claims to have got an answer, and half of them ask for something at once.
fn forged_end_of_handshake(n: u32) -> Vec<u8> {
    let bare = SegmentBuilder::new(nobody(n), SERVICE);
    let payload: &[u8] = if n.is_multiple_of(2) { b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n" } else { b"" };
    let (seq, ack) = (Seq(scatter(n)) + 1, Some(Seq(scatter(n ^ 0x5555))));
    let timestamps = Some((scatter(!n) + 1, scatter(n ^ 0x3333)));
    SegmentBuilder { seq, ack, window: 502, timestamps, payload, ..bare }.build()
}

fn route_to_nobody(lab: &Lab) -> Result<()> {
    let via = Node::Client.address().to_string();
    lab.netns(Node::Proxy).run(Command::new("ip").args(["route", "add", "198.18.0.0/15", "via", &via]))?;
    Ok(())
}

fn counter(lab: &Lab, name: &str) -> Result<u64> {
    Ok(lab.proxy_status()?.counters.get(name).copied().unwrap_or(0))
}

fn resident_kib(lab: &Lab) -> Result<u64> {
    let daemon = lab.daemon(Daemon::NfqSplice).context("nfq-splice is not running")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

/// The table fills, cookies take over, memory stays, and each new client gets its document at once.
#[test]
fn a_syn_flood_from_random_sources() -> Result<()> {
    let settings = Settings { set: vec!["splice.half_open=64".into()], ..Settings::default() };
    in_lab(&settings, |lab| {
        route_to_nobody(lab)?;
        let mut before = lab.curl(&[&lab.url("/files/300m")])?;
        before.read_to(1_000_000)?;
        let memory = resident_kib(lab)?;
        let mut raw = sender(lab)?;
        for wave in 0..SYNS / WAVE {
            let packets: Vec<_> = (wave * WAVE..(wave + 1) * WAVE).map(syn_of_nobody).collect();
            // With timestamps the fast path's program conducts the handshake, without them the daemon does.
            let stamps = format!("net.ipv4.tcp_timestamps={}", wave % 2);
            lab.on_client("sysctl", &["-qw", &stamps])?;
            let curl = lab.curl(&[&lab.url("/files/64k")])?;
            raw.send_batch(&packets);
            curl.finish()?.check("/files/64k").with_context(|| format!("wave {wave}"))?;
        }
        before.finish()?.check("/files/300m")?;
        let sent = counter(lab, "syn_cookies_sent")?;
        ensure!(sent > u64::from(SYNS / 4), "{sent} SYNs were answered without state");
        for accepted in ["syn_cookies_accepted", "answered_handshakes_continued"] {
            ensure!(counter(lab, accepted)? > 0, "no client came by a cookie: {accepted}");
        }
        ensure!(counter(lab, "half_open_now")? <= 64 + 2, "more half-open connections than allowed");
        let grown = resident_kib(lab)?.saturating_sub(memory);
        ensure!(grown < 32 << 10, "the proxy grew by {grown} KiB");
        Ok(())
    })
}

/// On the userspace path the BPF program answers a flood that looks like Linux. Its cookies let real clients in, forged ones nobody.
#[test]
fn a_syn_flood_that_the_program_answers() -> Result<()> {
    in_lab(&Settings { path: Path::Userspace, ..Settings::default() }, |lab| {
        route_to_nobody(lab)?;
        await_condition("the program answers", Duration::from_secs(5), || {
            lab.curl(&[&lab.url("/files/1k")])?.finish()?.check("/files/1k")?;
            Ok(counter(lab, "fast_path_acks_taken")? > 0)
        })?;
        let (before, memory) = (lab.proxy_status()?.counters, resident_kib(lab)?);
        let mut raw = sender(lab)?;
        for wave in 0..SYNS / WAVE {
            let numbers = wave * WAVE..(wave + 1) * WAVE;
            let mut packets: Vec<_> = numbers.clone().map(linux_syn_of_nobody).collect();
            packets.extend(numbers.step_by(9).map(forged_end_of_handshake));
            let curl = lab.curl(&[&lab.url("/files/64k")])?;
            raw.send_batch(&packets);
            curl.finish()?.check("/files/64k").with_context(|| format!("wave {wave}"))?;
        }
        only_real_clients_came_in(&before, &lab.proxy_status()?.counters)?;
        let grown = resident_kib(lab)?.saturating_sub(memory);
        ensure!(grown < 32 << 10, "the proxy grew by {grown} KiB");
        Ok(())
    })
}

/// One a wave.
fn only_real_clients_came_in(before: &Counters, after: &Counters) -> Result<()> {
    let of = |counters: &Counters, name| counters.get(name).copied().unwrap_or(0);
    let grown = |name| of(after, name) - of(before, name);
    let answered = grown("fast_path_syns_answered");
    ensure!(answered > u64::from(SYNS / 4), "the program answered only {answered} SYNs");
    for name in ["fast_path_acks_taken", "answered_handshakes_continued", "connections_spliced"] {
        ensure!(grown(name) == u64::from(SYNS / WAVE), "{name}: {}", grown(name));
    }
    ensure!(grown("syn_cookies_wrong") > 0, "no forged cookie was looked at");
    ensure!(of(after, "half_open_now") == 0, "some are half open");
    Ok(())
}

/// Resets, SYNs and data that have a connection's addresses and ports, and any numbers.
fn blind(n: u32, client: SocketAddr) -> Vec<u8> {
    let (seq, ack) = (Seq(scatter(n)), Seq(scatter(!n)));
    let bare = SegmentBuilder { seq, window: 1000, ..SegmentBuilder::new(client, SERVICE) };
    match n % 4 {
        0 => SegmentBuilder { flags: Flags::RST, ..bare },
        1 => SegmentBuilder { flags: Flags::RST, ack: Some(ack), ..bare },
        2 => SegmentBuilder { flags: Flags::SYN, ..bare },
        _ => SegmentBuilder { ack: Some(ack), payload: b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n", ..bare },
    }
    .build()
}

fn blind_attack(path: Path) -> Result<()> {
    in_lab(&Settings { path, ..Settings::default() }, |lab| {
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(1_000_000)?;
        let first = || lab.proxy_status()?.connections.into_iter().next().context("no connection");
        if path == Path::Kernel {
            await_condition("conntrack has it", Duration::from_secs(5), || {
                Ok(first()?.state == "spliced-kernel")
            })?;
        }
        let client = first()?.client;
        let packets: Vec<_> = (1..4000).map(|n| blind(n, client)).collect();
        sender(lab)?.send_batch(&packets);
        curl.read_to(2_000_000)?;
        if path == Path::Kernel {
            let entry = lab.netns(Node::Proxy).within(|| Ok(Conntrack::open()?.get(client, SERVICE)?))?;
            ensure!(entry.is_some_and(|entry| entry.state == TcpState::Established), "{entry:?}");
        } else {
            await_condition("the proxy drops what is forged", Duration::from_secs(5), || {
                Ok(counter(lab, "rst_outside_window_dropped")? > 100
                    && counter(lab, "outside_window_dropped")? > 100)
            })?;
        }
        ensure!(counter(lab, "challenge_sent")? > 0, "no SYN was challenged");
        let fetched = curl.finish()?;
        fetched.check("/files/300m")
    })
}

#[test]
fn blind_resets_syns_and_data_on_a_kernel_splice() -> Result<()> {
    blind_attack(Path::Kernel)
}

#[test]
fn blind_resets_syns_and_data_on_a_userspace_splice() -> Result<()> {
    blind_attack(Path::Userspace)
}

fn nft_on_client(lab: &Lab, rule: &str) -> Result<String> {
    lab.on_client("nft", &[rule])
}

/// A SYN on an open connection, meant: the client lost the connection and takes the same port again. The challenge tells it the
/// numbers, its reset ends the old connection, and its next SYN opens the new one.
#[test]
fn a_client_that_lost_its_connection_takes_the_same_port_again() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.get("/files/1k")?.check("/files/1k")?;
        let client = connection.local()?;
        nft_on_client(
            lab,
            "add table ip silent; add chain ip silent out { type filter hook output priority 0; }",
        )?;
        nft_on_client(lab, "add rule ip silent out tcp flags & rst == rst counter drop")?;
        rustix::net::sockopt::set_socket_linger(connection.stream(), Some(Duration::ZERO))?;
        drop(connection);
        nft_on_client(lab, "delete table ip silent")?;
        let port = client.port().to_string();
        let fetched =
            lab.curl(&["--local-port", &port, "--max-time", "20", &lab.url("/files/64k")])?.finish()?;
        fetched.check("/files/64k")?;
        ensure!(counter(lab, "challenge_sent")? == 1, "it was not challenged");
        ensure!(counter(lab, "port_reused")? == 1, "the old connection's end was not seen");
        Ok(())
    })
}

/// A checksum that is wrong: the segment does not exist (RFC 9293 MUST-3).
#[test]
fn a_bad_checksum() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut packet = syn_of_nobody(1);
        for byte in packet.iter_mut().skip(36).take(2) {
            *byte = !*byte;
        }
        let before = lab.proxy_status()?.total;
        sender(lab)?.send(&packet)?;
        await_condition("it is dropped", Duration::from_secs(5), || {
            Ok(counter(lab, "bad_checksum_dropped")? == 1)
        })?;
        ensure!(lab.proxy_status()?.total == before, "it made a connection");
        Ok(())
    })
}
