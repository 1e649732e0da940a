//! Clients that take the same ports again at once, thousands of times a second, while the proxy's and the backends' kernels remember
//! the last connection of each.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::ops::{AddAssign, Range};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::topology::DIRECT_PORT;
use lab::{Fault, Lab, Node};
use rustix::io::Errno;

const CLIENTS: u16 = 4;
const PORTS_EACH: u16 = 75;
const FIRST_PORT: u16 = 40_000;
/// How often each port is used.
const ROUNDS: u32 = 12;
/// Linux repeats a segment after 200 ms at the earliest, give or take a tick.
const REPEATED: Duration = Duration::from_millis(190);

/// What clients met.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    answers: u32,
    /// Ports that the client's own kernel did not give, because their connection had not ended.
    taken: u32,
    /// Requests that took as long as a repetition takes.
    stalls: u32,
    longest: Duration,
}

impl AddAssign for Met {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.taken += other.taken;
        self.stalls += other.stalls;
        self.longest = self.longest.max(other.longest);
    }
}

fn patient(port: u16) -> Behaviour {
    Behaviour { port: Some(port), patience: Duration::from_secs(5), ..Behaviour::default() }
}

/// The server says the first farewell.
fn closed_by_server(connection: &mut Connection) -> Result<()> {
    connection.send(b"GET /files/1k HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    connection.receive(false, &mut |_| Ok(()))?.check("/files/1k")?;
    ensure!(connection.stream().read(&mut [0]).context("awaiting the end")? == 0, "more than an answer");
    Ok(())
}

/// The client does.
fn closed_by_client(connection: &mut Connection) -> Result<()> {
    connection.get("/files/1k")?.check("/files/1k")
}

fn one_request(lab: &Lab, to: SocketAddr, port: u16, round: u32, met: &mut Met) -> Result<()> {
    let began = Instant::now();
    let mut connection = match Connection::open(lab, to, patient(port)) {
        Ok(connection) => connection,
        Err(error) if error.downcast_ref() == Some(&Errno::ADDRNOTAVAIL) => {
            met.taken += 1;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let by_server = (u32::from(port) + round).is_multiple_of(3);
    if by_server { closed_by_server(&mut connection) } else { closed_by_client(&mut connection) }?;
    let took = began.elapsed();
    met.answers += 1;
    met.stalls += u32::from(took >= REPEATED);
    met.longest = met.longest.max(took);
    Ok(())
}

fn client(lab: &Lab, to: SocketAddr, ports: Range<u16>) -> Result<Met> {
    let mut met = Met::default();
    for round in 0..ROUNDS {
        for port in ports.clone() {
            one_request(lab, to, port, round, &mut met)
                .with_context(|| format!("port {port} in round {round}"))?;
        }
    }
    Ok(met)
}

/// A few clients, each with ports of its own, that come round all the time.
fn clients(lab: &Lab, to: SocketAddr) -> Result<Met> {
    let mut all = Met::default();
    thread::scope(|scope| {
        let ports = (0..CLIENTS).map(|n| FIRST_PORT + n * PORTS_EACH).map(|port| port..port + PORTS_EACH);
        let running: Vec<_> = ports.map(|ports| scope.spawn(move || client(lab, to, ports))).collect();
        for client in running {
            all += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(all)
    })
}

/// How often this kernel waited in vain for an acknowledgement.
fn timeouts(lab: &Lab, node: Node) -> Result<u64> {
    let name = "TcpExtTCPTimeouts";
    let text = lab.netns(node).run(Command::new("nstat").args(["-asz", name]))?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| text.clone())?;
    line.split_whitespace().nth(1).context("no count")?.parse().context("no number")
}

fn come_round(path: Path) -> Result<()> {
    in_lab(&Settings { path, ..Settings::default() }, |lab| {
        let plain = clients(lab, SocketAddr::new(IpAddr::V4(Node::B1.address()), DIRECT_PORT))?;
        let plain_timeouts = timeouts(lab, Node::Client)?;
        let spliced = clients(lab, lab.service())?;
        let timeouts = timeouts(lab, Node::Client)? - plain_timeouts;
        let all =
            format!("plain {plain:?}, {plain_timeouts} timeouts; spliced {spliced:?}, {timeouts} timeouts");
        let wanted = u32::from(CLIENTS * PORTS_EACH) * ROUNDS;
        ensure!(spliced.answers >= wanted / 10 * 9, "too few answers: {all}");
        ensure!(spliced.stalls <= plain.stalls, "requests that stalled: {all}");
        ensure!(timeouts <= plain_timeouts, "the client had to repeat something: {all}");
        Ok(())
    })
}

#[test]
fn on_the_kernel_path() -> Result<()> {
    come_round(Path::Kernel)
}

#[test]
fn on_the_userspace_path() -> Result<()> {
    come_round(Path::Userspace)
}

/// Small, so that the server has not sent everything when it fails.
const BUFFER: usize = 64 << 10;

/// What the client was told of a clock before and after a re-splice does not keep it from opening the same port again at once.
fn after_a_re_splice(path: Path) -> Result<()> {
    let settings = Settings { path, send_buffer: Some(BUFFER as u64), ..Settings::default() };
    in_lab(&settings, |lab| {
        let behaviour = Behaviour { receive_buffer: Some(BUFFER), ..patient(FIRST_PORT) };
        let mut connection = lab.open(behaviour)?;
        lab.get_failing(&mut connection, "/files/1m", Fault::Kill, 300_000)?.0.check("/files/1m")?;
        // The next server has it now: otherwise the client's end could meet the recovery.
        connection.get("/files/64k")?.check("/files/64k")?;
        drop(connection);
        let mut met = Met::default();
        for round in 0..10 {
            await_condition("the port is served again", Duration::from_secs(1), || {
                one_request(lab, lab.service(), FIRST_PORT, round, &mut met)?;
                Ok(met.answers == round + 1)
            })?;
        }
        // A SYN within the millisecond of the last segment may be challenged in TIME-WAIT: the client repeats it at once.
        ensure!(met.stalls == 0, "a request stalled: {met:?}");
        Ok(())
    })
}

#[test]
fn after_a_re_splice_on_the_kernel_path() -> Result<()> {
    after_a_re_splice(Path::Kernel)
}

#[test]
fn after_a_re_splice_on_the_userspace_path() -> Result<()> {
    after_a_re_splice(Path::Userspace)
}
