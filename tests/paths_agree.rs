//! The kernel path, with and without the fast path, and the userspace path put the same on the wire: each packet on the client's side of the
//! proxy is exactly the translation of one on the other side, in every field, over a link that loses and
//! reorders. The captures are read by a parser that is not ours.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

mod capture;

use std::time::Duration;

use anyhow::{Result, ensure};
use capture::{Capture, Segment, end};
use lab::settings::{LinkSettings, Path, Settings, nodes};
use lab::testing::in_lab;
use lab::{Lab, Node};
use std::collections::HashSet;
use std::process::Command;

fn lossy(path: Path) -> Settings {
    let link =
        LinkSettings { rtt: Duration::from_millis(2), loss: 0.01, reorder: 0.01, ..LinkSettings::default() };
    Settings { link, path, nodes: nodes(&[], true), ..Settings::default() }
}

/// Real checksums instead of ones that a network card would fill in, so that the capture can check them.
fn without_offloads(lab: &Lab) -> Result<()> {
    for (node, interface) in [(Node::Client, "eth0"), (Node::B1, "eth0"), (Node::B2, "eth0")] {
        lab.netns(node).run(Command::new("ethtool").args(["-K", interface, "tx", "off"]))?;
    }
    Ok(())
}

fn every_field_is_right(settings: &Settings) -> Result<()> {
    in_lab(settings, |lab| {
        without_offloads(lab)?;
        let outside = Capture::start(lab, Node::Proxy, "to-client")?;
        let inside = Capture::start(lab, Node::Proxy, "to-logger")?;
        lab.curl(&[&lab.url("/files/1m"), &lab.url("/chunked/1m"), &lab.url("/files/64k")])?.finish()?;
        compare(&outside.finish()?, &inside.finish()?)
    })
}

#[test]
fn the_kernel_path_translates_every_field() -> Result<()> {
    every_field_is_right(&lossy(Path::Kernel))
}

#[test]
fn so_does_conntrack_alone() -> Result<()> {
    every_field_is_right(&Settings { set: vec!["splice.fast_path=false".into()], ..lossy(Path::Kernel) })
}

#[test]
fn so_does_the_fast_path_beside_the_userspace_path() -> Result<()> {
    every_field_is_right(&lossy(Path::Userspace))
}

#[test]
fn the_userspace_path_translates_every_field() -> Result<()> {
    every_field_is_right(&Settings { set: vec!["splice.fast_path=false".into()], ..lossy(Path::Userspace) })
}

#[test]
fn both_paths_carry_the_same_bytes() -> Result<()> {
    for path in [Path::Kernel, Path::Userspace] {
        in_lab(&Settings { path, ..Settings::default() }, |lab| {
            for document in ["/files/300m", "/chunked/10m"] {
                lab.curl(&[&lab.url(document)])?.finish()?.check(document)?;
            }
            let states = lab.proxy_status()?.connections;
            let expected = if path == Path::Kernel { "spliced-kernel" } else { "spliced-userspace" };
            // The last one may be too young for either.
            let right = |state: &str| state == expected || state == "spliced-young";
            ensure!(states.iter().all(|connection| right(&connection.state)), "{states:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What one splice adds: the backend's sequence numbers and timestamps become the proxy's.
struct Splice {
    delta: u32,
    timestamps: u32,
    /// The proxy's first sequence number after its SYN.
    first: u32,
}

fn compare(outside: &[Segment], inside: &[Segment]) -> Result<()> {
    let splice = splice(outside, inside)?;
    let inside_set: HashSet<Segment> = inside.iter().map(without_addresses).collect();
    let mut compared = 0;
    let mut selective = 0;
    // What comes last on one side may not have come to the other, where segments of the two directions may pass in another order.
    let closed = outside.get(..end(outside).unwrap_or(0)).unwrap_or_default();
    for segment in closed.iter().filter(|segment| !segment.syn && !made_by_the_proxy(segment, &splice)) {
        let translated = translated(segment, &splice);
        ensure!(segment.checksum_ok, "a wrong checksum on the client's side: {segment:?}");
        ensure!(
            inside_set.contains(&translated),
            "{segment:?} should be {translated:?} on the other side; similar there: {:?}",
            similar(inside, &translated)
        );
        compared += 1;
        selective += usize::from(!segment.sack.is_empty());
    }
    ensure!(inside.iter().all(|segment| segment.checksum_ok), "a wrong checksum on the logger's side");
    ensure!(compared > 1000, "only {compared} segments were compared");
    ensure!(selective > 0, "no selective acknowledgement was seen");
    Ok(())
}

/// Segments of the same direction at the same place, to see what is different.
fn similar<'a>(segments: &'a [Segment], wanted: &Segment) -> Vec<&'a Segment> {
    let same = |segment: &&Segment| {
        segment.from_server == wanted.from_server && segment.seq == wanted.seq && segment.ack == wanted.ack
    };
    segments.iter().filter(same).take(5).collect()
}

/// From the two SYN-ACKs and the first data of the server.
fn splice(outside: &[Segment], inside: &[Segment]) -> Result<Splice> {
    let syn_ack = |segments: &[Segment]| {
        segments.iter().find(|segment| segment.syn && segment.from_server).map(|segment| segment.seq)
    };
    let (Some(proxy), Some(backend)) = (syn_ack(outside), syn_ack(inside)) else {
        anyhow::bail!("no handshake in the capture");
    };
    let delta = proxy.wrapping_sub(backend);
    let data = |segments: &[Segment], first: u32| {
        let wanted = first.wrapping_add(1);
        let found = segments
            .iter()
            .find(|segment| segment.from_server && segment.length > 0 && segment.seq == wanted);
        found.and_then(|segment| segment.timestamps).map(|(value, _)| value)
    };
    let (Some(theirs), Some(ours)) = (data(outside, proxy), data(inside, backend)) else {
        anyhow::bail!("no first data with timestamps in the capture");
    };
    Ok(Splice { delta, timestamps: theirs.wrapping_sub(ours), first: proxy.wrapping_add(1) })
}

/// Before the splice the proxy speaks for itself: nothing of the server is acknowledged or sent yet.
fn made_by_the_proxy(segment: &Segment, splice: &Splice) -> bool {
    if segment.from_server {
        return segment.length == 0 && segment.seq == splice.first && !segment.fin;
    }
    segment.ack == splice.first
}

/// For comparing both sides: everything but what says where it was seen.
fn without_addresses(segment: &Segment) -> Segment {
    Segment { checksum_ok: true, ..segment.clone() }
}

/// How a segment on the client's side must look on the other.
fn translated(segment: &Segment, splice: &Splice) -> Segment {
    let mut other = without_addresses(segment);
    if segment.from_server {
        other.seq = segment.seq.wrapping_sub(splice.delta);
        other.timestamps =
            segment.timestamps.map(|(value, echo)| (value.wrapping_sub(splice.timestamps), echo));
    } else {
        other.ack = segment.ack.wrapping_sub(splice.delta);
        other.timestamps =
            segment.timestamps.map(|(value, echo)| (value, echo.wrapping_sub(splice.timestamps)));
        let edge = |edge: u32| edge.wrapping_sub(splice.delta);
        other.sack = segment.sack.iter().map(|(left, right)| (edge(*left), edge(*right))).collect();
    }
    other
}
