//! Links that take less than the ends believe, somewhere on the way: path MTU discovery works through the splice. Without
//! translated ICMP errors each of these transfers would hang for ever.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection};
use lab::settings::{LinkSettings, Path, Settings, nodes};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab, Node};

fn settings(path: Path, rtt: u64) -> Settings {
    let link = LinkSettings { rtt: Duration::from_millis(rtt), ..LinkSettings::default() };
    Settings { link, path, nodes: nodes(&[], true), ..Settings::default() }
}

fn ip(lab: &Lab, node: Node, arguments: &str) -> Result<()> {
    lab.netns(node).run(Command::new("ip").args(arguments.split(' '))).map(drop)
}

/// While `job` runs these interfaces take no longer packets; afterwards no host remembers that.
fn with_mtu(lab: &Lab, ends: &[(Node, &str)], mtu: u16, job: impl FnOnce() -> Result<()>) -> Result<()> {
    let set = |mtu| {
        ends.iter()
            .try_for_each(|(node, interface)| ip(lab, *node, &format!("link set {interface} mtu {mtu}")))
    };
    set(mtu)?;
    job().with_context(|| format!("{ends:?} take {mtu} bytes"))?;
    set(1500)?;
    [Node::Client, Node::B1, Node::B2].into_iter().try_for_each(|host| ip(lab, host, "route flush cache"))
}

fn counter(lab: &Lab, name: &str) -> Result<u64> {
    Ok(lab.proxy_status()?.counters.get(name).copied().unwrap_or(0))
}

/// Transfers `document` each way; `translated`: the proxy had to pass errors on.
fn transfers(lab: &Lab, down: bool, translated: bool) -> Result<()> {
    let before = counter(lab, "icmp_translated")?;
    if down {
        lab.curl(&[&lab.url("/files/1m")])?.finish()?.check("/files/1m")?;
    } else {
        let data = format!("@{}", lab::documents::tree()?.join("files/1m").display());
        let sent = ["-H", "Expect:", "--data-binary", &data, &lab.url("/form")];
        lab.curl(&sent)?.finish()?.check("/files/1m")?;
    }
    let after = counter(lab, "icmp_translated")?;
    ensure!(!translated || after > before, "no error was translated");
    ensure!(counter(lab, "bad_checksum_dropped")? == 0, "the kernel's own errors count as damaged");
    Ok(())
}

fn transfers_over(path: Path) -> Result<()> {
    in_lab(&settings(path, 1), |lab| {
        let user = path == Path::Userspace;
        // Towards the client only the near end: it still offers large segments. A hop, then the proxy's own link.
        for mtu in [1000, 1400] {
            with_mtu(lab, &[(Node::Link, "to-client")], mtu, || transfers(lab, true, true))?;
        }
        with_mtu(lab, &[(Node::Proxy, "to-client")], 1100, || transfers(lab, true, user))?;
        // Towards the backends likewise; the proxy has promised the client more before it knew one.
        let link = [(Node::Proxy, "to-logger"), (Node::Logger, "to-proxy")];
        with_mtu(lab, &link, 950, || transfers(lab, false, true))?;
        // Backends that say themselves that they take less get no longer segments: no error has to tell.
        let links =
            [(Node::Logger, "to-b1"), (Node::B1, "eth0"), (Node::Logger, "to-b2"), (Node::B2, "eth0")];
        with_mtu(lab, &links, 900, || transfers(lab, false, false))
    })
}

#[test]
fn over_the_kernel_path() -> Result<()> {
    transfers_over(Path::Kernel)
}

#[test]
fn over_the_userspace_path() -> Result<()> {
    transfers_over(Path::Userspace)
}

/// A connection that conntrack translates: `nfq-splice` has not learnt from errors about it what the path takes.
fn old_connection(lab: &Lab) -> Result<Connection> {
    let mut connection = lab.open(Behaviour::default())?;
    connection.get("/files/1k")?.check("/files/1k")?;
    let client = connection.local()?;
    await_condition("conntrack has it", Duration::from_secs(5), || {
        let known = lab.proxy_status()?.connections;
        Ok(known.iter().any(|known| known.client == client && known.state == "spliced-kernel"))
    })?;
    Ok(connection)
}

/// Behind so many bytes of the client's packets, headers included, they are lost at the link: its request and a few acknowledgements.
const QUOTA: u32 = 400;
/// In a ruleset of the lab's own.
const DEAF: &str = "table ip deaf";

/// The link loses the client's packets from now on, once there were some.
fn deafen(lab: &Lab) -> Result<()> {
    let chain = "chain forward {\ntype filter hook forward priority 0\n";
    let rule = format!("iifname \"to-client\" quota over {QUOTA} bytes counter drop\n}}\n}}");
    nft(lab, &format!("{DEAF} {{\n{chain}{rule}")).map(drop)
}

/// How many it has lost.
fn lost(lab: &Lab) -> Result<u64> {
    let rules = nft(lab, &format!("list {DEAF}"))?;
    let mut words = rules.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).context("no counter")?.parse().context("its counter")
}

fn nft(lab: &Lab, command: &str) -> Result<String> {
    lab.netns(Node::Link).run(Command::new("nft").arg(command))
}

/// The server dies with much that the client has not acknowledged; it can again when this counter has risen.
fn fail_unacknowledged(lab: &Lab, connection: &mut Connection, rises: &str) -> Result<Node> {
    let (client, before) = (connection.local()?, counter(lab, rises)?);
    let limit = Duration::from_secs(20);
    let mut failed = None;
    deafen(lab)?;
    let response = connection.get_watched("/files/1m", &mut |bytes| {
        if bytes == 0 || failed.is_some() {
            return Ok(());
        }
        await_condition("acknowledgements are lost", limit, || Ok(lost(lab)? > 3))?;
        let node = lab.serving(client)?;
        lab.fail(node, Fault::Kill)?;
        failed = Some(node);
        await_condition(rises, limit, || Ok(counter(lab, rises)? > before))?;
        nft(lab, &format!("delete {DEAF}")).map(drop)
    })?;
    response.check("/files/1m")?;
    failed.context("nothing has come")
}

/// What the proxy itself re-sends when a server dies is cut to the path, too: behind a hop, whose errors are about the proxy's own
/// segments, and at its own link, which refuses them.
#[test]
fn a_recovery_over_a_small_link() -> Result<()> {
    let settings = Settings { send_buffer: Some(100_000), ..settings(Path::Kernel, 20) };
    in_lab(&settings, |lab| {
        for (at, rises) in [(Node::Link, "icmp_taken"), (Node::Proxy, "too_long_not_sent")] {
            let mut connection = old_connection(lab)?;
            with_mtu(lab, &[(at, "to-client")], 1000, || {
                let node = fail_unacknowledged(lab, &mut connection, rises)?;
                lab.heal(node)?;
                lab.await_backends()
            })?;
        }
        Ok(())
    })
}
