//! Making and removing the lab's namespaces, wires and routes.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::netns::{Netns, run};
use crate::process::signal_pid;
use crate::settings::Settings;
use crate::topology::{Node, Wire, ipv6, routes, wires};

/// Linux's default.
const CONGESTION_CONTROL: &str = "cubic";

/// Makes whatever of the network is missing; true if anything was.
pub fn create(lab: &Lab, settings: &Settings) -> Result<bool> {
    if complete(lab, settings) {
        return Ok(false);
    }
    for node in &settings.nodes {
        let netns = lab.netns(*node);
        if !netns.exists() {
            remove_leftover(&netns);
            run(Command::new("ip").args(["netns", "add", netns.name()])).context("are you root?")?;
        }
    }
    for wire in wires_of(settings) {
        connect(lab, wire)?;
    }
    for node in &settings.nodes {
        configure(lab, settings, *node)?;
    }
    Ok(true)
}

/// Removes the namespaces and every process in them.
pub fn remove(lab: &Lab) -> Result<()> {
    for node in Node::ALL {
        let netns = lab.netns(node);
        if netns.exists() {
            kill_all(&netns)?;
            run(Command::new("ip").args(["netns", "del", netns.name()]))?;
        } else {
            remove_leftover(&netns);
        }
    }
    Ok(())
}

/// Lets all interfaces of an emulated link's neighbourhood send real segments instead of 64 KB ones,
/// so that what is lost or delayed is a segment.
pub fn disable_offloads(lab: &Lab, settings: &Settings) -> Result<()> {
    for wire in wires_of(settings).iter().filter(|wire| wire.iter().any(|end| end.node == Node::Link)) {
        for end in wire {
            let mut ethtool = Command::new("ethtool");
            ethtool.args(["-K", end.interface, "tso", "off", "gso", "off", "gro", "off"]);
            lab.netns(end.node).run(&mut ethtool)?;
        }
    }
    Ok(())
}

/// (Re-)applies a node's addresses and routes: after its interface was down the routes are gone.
pub fn configure(lab: &Lab, settings: &Settings, node: Node) -> Result<()> {
    if settings.link.loss == 0.0 {
        control_congestion(&lab.netns(node))?;
    }
    if settings.ipv6 {
        trust_addresses(&lab.netns(node))?;
    }
    let mut batch = String::from("link set lo up\n");
    for end in wires_of(settings).iter().flatten().filter(|end| end.node == node) {
        writeln!(
            batch,
            "addr replace {}/24 dev {}\nlink set {} up",
            end.address, end.interface, end.interface
        )?;
    }
    let emulated = settings.link.active();
    for route in routes(emulated).iter().filter(|route| route.node == node && reachable(settings, route.via))
    {
        writeln!(batch, "route replace {} via {}", route.to, route.via)?;
    }
    if settings.ipv6 {
        batch += &ipv6_lines(settings, node)?;
    }
    ip_batch(&["-n", lab.netns(node).name()], &batch)?;
    if node.forwards() {
        let netns = lab.netns(node);
        if settings.ipv6 {
            netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        for (key, value) in
            [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")]
        {
            netns.sysctl(&format!("net/ipv4/{key}"), value)?;
        }
        for interface in netns.interfaces()? {
            netns.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
        }
    }
    Ok(())
}

/// As Linux does where nobody has set anything else, whatever this machine is set to (one with BBR paces each segment): what is
/// measured depends on it. Not where the link loses packets: at 1 % and 4 ms CUBIC carries 2 MB/s (BBR 20), and scenarios there are
/// about repetitions, not about waiting for them.
fn control_congestion(netns: &Netns) -> Result<()> {
    let known = netns.read_sysctl("net/ipv4/tcp_available_congestion_control")?;
    if known.split_whitespace().any(|name| name == CONGESTION_CONTROL) {
        allow_congestion_control()?;
        netns.sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
    }
    Ok(())
}

/// Outside of the machine's own namespace only what the machine allows to everybody may be set.
fn allow_congestion_control() -> Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = fs::read_to_string(path).context(path)?;
    if allowed.split_whitespace().any(|name| name == CONGESTION_CONTROL) {
        return Ok(());
    }
    fs::write(path, format!("{} {CONGESTION_CONTROL}", allowed.trim())).context(path)
}

/// Nobody else has these addresses: while a host still looks for one who has (RFC 4862 §5.4), for a second or two after its
/// interface came up, it finds no neighbours.
fn trust_addresses(netns: &Netns) -> Result<()> {
    for interface in netns.interfaces()?.iter().map(String::as_str).chain(["all"]) {
        netns.sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
        netns.sysctl(&format!("net/ipv6/conf/{interface}/dad_transmits"), "0")?;
    }
    Ok(())
}

/// Beside each IPv4 address and route its like.
fn ipv6_lines(settings: &Settings, node: Node) -> Result<String> {
    let mut batch = String::new();
    for end in wires_of(settings).iter().flatten().filter(|end| end.node == node) {
        writeln!(batch, "addr replace {}/64 dev {} nodad", ipv6(end.address), end.interface)?;
    }
    let emulated = settings.link.active();
    let routes = routes(emulated).into_iter().filter(|route| route.node == node);
    for (to, via) in routes.filter(|route| reachable(settings, route.via)).filter_map(|route| route.ipv6()) {
        writeln!(batch, "route replace {to} via {via}")?;
    }
    Ok(batch)
}

fn wires_of(settings: &Settings) -> Vec<Wire> {
    let all = wires(settings.link.active());
    all.into_iter().filter(|wire| wire.iter().all(|end| settings.has(end.node))).collect()
}

/// Whether some present wire leads to this address.
fn reachable(settings: &Settings, address: std::net::Ipv4Addr) -> bool {
    wires_of(settings).iter().flatten().any(|end| end.address == address)
}

fn complete(lab: &Lab, settings: &Settings) -> bool {
    settings.nodes.iter().all(|node| {
        let present = lab.netns(*node).interfaces().unwrap_or_default();
        let wires = wires_of(settings);
        let mut expected = wires.iter().flatten().filter(|end| end.node == *node);
        lab.netns(*node).exists() && expected.all(|end| present.iter().any(|name| name == end.interface))
    })
}

fn connect(lab: &Lab, [a, b]: Wire) -> Result<()> {
    let (left, right) = (lab.netns(a.node), lab.netns(b.node));
    if left.interfaces()?.iter().any(|name| name == a.interface) {
        return Ok(());
    }
    ip_batch(
        &[],
        &format!(
            "link add {} netns {} type veth peer name {} netns {}\n",
            a.interface,
            left.name(),
            b.interface,
            right.name()
        ),
    )
}

fn ip_batch(options: &[&str], lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting ip: run scripts/setup")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {options:?} with {lines:?}: {}", said.trim());
    Ok(())
}

fn kill_all(netns: &Netns) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let pids = netns.pids();
        if pids.is_empty() {
            return Ok(());
        }
        ensure!(!pids.contains(&std::process::id()), "lab down cannot run inside the lab");
        ensure!(Instant::now() < end, "processes {pids:?} in {} survive SIGKILL", netns.name());
        for pid in pids {
            signal_pid(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A crash may leave the name of a namespace without the namespace.
fn remove_leftover(netns: &Netns) {
    let path = Path::new("/run/netns").join(netns.name());
    if path.exists() {
        let _ = std::fs::remove_file(path);
    }
}

/// What this kernel's sockets announce (`tcp_select_initial_window()`): the kernel translates from the first connection on then, before any
/// backend's scale is learnt.
pub(crate) fn window_scale() -> Option<u8> {
    let greatest = |name: &str| {
        let values = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
        values.split_whitespace().last()?.parse::<u32>().ok()
    };
    let space = greatest("ipv4/tcp_rmem")?.max(greatest("core/rmem_max")?);
    u8::try_from(space.checked_ilog2()?.saturating_sub(15).min(14)).ok()
}
