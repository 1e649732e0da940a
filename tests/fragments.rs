//! IP fragments: the proxy's kernel puts honest ones together before anybody reads TCP in them; dishonest ones get nowhere.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::settings::{LinkSettings, Path, Settings, nodes};
use lab::testing::{await_condition, in_lab};
use lab::topology::{PORT, VIP};
use lab::{Lab, Node};
use netfilter::raw::RawSender;
use packet::{Flags, SegmentBuilder, Seq, SynOptions, checksum};

const MTU: u16 = 600;

/// Counters of IP on a node, by name (`/proc/net/snmp`).
fn ip_counter(lab: &Lab, node: Node, name: &str) -> Result<u64> {
    let text = lab.netns(node).within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = lines.next().zip(lines.next()).context("no counters")?;
    let found = names.split(' ').zip(values.split(' ')).find(|(found, _)| *found == name);
    Ok(found.context("no such counter")?.1.parse()?)
}

/// A client that forbids no fragmentation, and a hop that fragments all it uploads; reordered now and then.
fn uploads_in_fragments(path: Path) -> Result<()> {
    let link = LinkSettings { rtt: Duration::from_millis(2), reorder: 0.01, ..LinkSettings::default() };
    let settings = Settings { path, link, nodes: nodes(&[], true), ..Settings::default() };
    in_lab(&settings, |lab| {
        lab.netns(Node::Client).sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        for (node, interface) in [(Node::Link, "to-proxy"), (Node::Proxy, "to-client")] {
            let set = ["link", "set", interface, "mtu", &MTU.to_string()];
            lab.netns(node).run(Command::new("ip").args(set))?;
        }
        let data = format!("@{}", lab::documents::tree()?.join("files/1m").display());
        lab.curl(&["-H", "Expect:", "--data-binary", &data, &lab.url("/form")])?
            .finish()?
            .check("/files/1m")?;
        let whole = ip_counter(lab, Node::Proxy, "ReasmOKs")?;
        ensure!(whole > 100, "only {whole} packets came in fragments");
        ensure!(!lab.proxy_status()?.counters.contains_key("fragment_dropped"), "a fragment was queued");
        Ok(())
    })
}

#[test]
fn an_upload_in_fragments_over_the_kernel_path() -> Result<()> {
    uploads_in_fragments(Path::Kernel)
}

#[test]
fn an_upload_in_fragments_over_the_userspace_path() -> Result<()> {
    uploads_in_fragments(Path::Userspace)
}

/// A SYN of 20 bytes of IP and 40 of TCP, from a port of its own.
fn syn(port: u16) -> Vec<u8> {
    let from = SocketAddr::from((Node::Client.address(), port));
    let options =
        SynOptions { mss: Some(1000), window_scale: Some(7), sack_permitted: true, timestamp: None };
    SegmentBuilder {
        seq: Seq(7),
        flags: Flags::SYN,
        window: 1000,
        syn: Some(options),
        timestamps: Some((1, 0)),
        ..SegmentBuilder::new(from, SocketAddr::from((VIP, PORT)))
    }
    .build()
}

/// Bytes `from..to` of a packet's payload as a fragment; both multiples of 8, or the end.
fn fragment(whole: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut packet = whole[..20].to_vec();
    packet.extend_from_slice(&whole[20 + from..20 + to]);
    let more = if 20 + to < whole.len() { 0x2000 } else { 0 };
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[4..6].copy_from_slice(&whole[20..22]);
    packet[6..8].copy_from_slice(&(more | (from / 8) as u16).to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum::ipv4_header(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn accepted(lab: &Lab) -> Result<u64> {
    Ok(lab.proxy_status()?.counters.get("syn_accepted").copied().unwrap_or(0))
}

/// IP fragments: tiny and overlapping ones are dropped, what is whole in two is a SYN like any other.
#[test]
fn tiny_and_overlapping_fragments_are_dropped() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut raw = lab.netns(Node::Client).within(|| Ok(RawSender::open(0)?))?;
        let mut send = |port: u16, pieces: &[(usize, usize)]| -> Result<()> {
            let whole = syn(port);
            ensure!(whole.len() == 60, "{} bytes", whole.len());
            pieces.iter().try_for_each(|(from, to)| Ok(raw.send(&fragment(&whole, *from, *to))?))
        };
        // The flags of TCP hidden in the second piece (RFC 1858 §3), behind the ports, or laid over the first (§4).
        send(20_001, &[(0, 8), (8, 40)])?;
        send(20_002, &[(0, 16), (16, 40)])?;
        send(20_003, &[(0, 24), (8, 40)])?;
        send(20_004, &[(0, 24), (16, 40)])?;
        send(20_005, &[(0, 32), (24, 40)])?;
        send(20_006, &[(8, 40), (0, 24)])?;
        ensure!(accepted(lab)? == 0, "a SYN was made of dishonest pieces");
        send(20_007, &[(24, 40), (0, 24)])?;
        await_condition("an honest SYN in two", Duration::from_secs(5), || Ok(accepted(lab)? == 1))?;
        let list = ["list", "chain", "ip", "resplice_proxy", "fragments"];
        let rules = lab.netns(Node::Proxy).run(Command::new("nft").args(list))?;
        let dropped = rules.lines().filter(|line| line.ends_with("drop") && !line.contains("packets 0 "));
        ensure!(dropped.count() == 2, "{rules}");
        lab.curl(&[&lab.url("/files/64k")])?.finish()?.check("/files/64k")
    })
}
