//! The same over IPv6: documents, uploads, failures, small links.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::settings::{LinkSettings, Path, Settings, nodes};
use lab::testing::in_lab;
use lab::{Fault, Lab, Node};

fn download(lab: &Lab, document: &str) -> Result<()> {
    lab.curl(&[&lab.url(document)])?.finish()?.check(document)
}

fn upload(lab: &Lab) -> Result<()> {
    let data = format!("@{}", lab::documents::tree()?.join("files/1m").display());
    lab.curl(&["-H", "Expect:", "--data-binary", &data, &lab.url("/form")])?.finish()?.check("/files/1m")
}

/// A download whose server fails while it is spliced on this path.
fn survives(lab: &Lab, path: Path, fault: Fault) -> Result<()> {
    let mut curl = lab.curl(&[&lab.url("/files/10m")])?;
    curl.read_to(100_000)?;
    let states = lab.proxy_status()?.connections;
    let expected = if path == Path::Kernel { "spliced-kernel" } else { "spliced-userspace" };
    ensure!(
        states.iter().any(|connection| connection.state == expected && connection.client.is_ipv6()),
        "{states:?}"
    );
    let node = lab.serving_any()?;
    lab.fail(node, fault)?;
    curl.finish()?.check("/files/10m")?;
    lab.heal(node)?;
    lab.await_backends()
}

fn everything_over(path: Path) -> Result<()> {
    in_lab(&Settings { path, ipv6: true, ..Settings::default() }, |lab| {
        ensure!(lab.url("/").contains("[fd77"), "{}", lab.url("/"));
        for document in ["/files/0", "/files/64k", "/chunked/10m"] {
            download(lab, document)?;
        }
        upload(lab)?;
        survives(lab, path, Fault::Kill)?;
        survives(lab, path, Fault::Silent)
    })
}

#[test]
fn over_the_kernel_path() -> Result<()> {
    everything_over(Path::Kernel)
}

#[test]
fn over_the_userspace_path() -> Result<()> {
    everything_over(Path::Userspace)
}

/// Packet too big (RFC 8201) comes through the splice.
#[test]
fn over_a_small_link() -> Result<()> {
    let link = LinkSettings { rtt: Duration::from_millis(1), ..LinkSettings::default() };
    for path in [Path::Kernel, Path::Userspace] {
        let settings = Settings { path, link, ipv6: true, nodes: nodes(&[], true), ..Settings::default() };
        in_lab(&settings, |lab| {
            let set = ["link", "set", "to-client", "mtu", "1300"];
            lab.netns(Node::Link).run(Command::new("ip").args(set))?;
            download(lab, "/files/1m")?;
            let translated = lab.proxy_status()?.counters.get("icmp_translated").copied();
            ensure!(translated.is_some_and(|count| count > 0), "no error was translated");
            Ok(())
        })?;
    }
    Ok(())
}
