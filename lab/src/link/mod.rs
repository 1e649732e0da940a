//! The emulated link between client and proxy: a namespace that forwards, whose packets wait in two
//! NFQUEUEs (one for each direction) until [`schedule`] says that they have arrived.

pub mod schedule;

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use netfilter::queue::{Queue, QueueConfig, Verdict};
use packet::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::settings::LinkSettings;
use crate::topology::Node;
use schedule::Schedule;

/// Line that the emulator prints when both queues are bound.
const READY: &str = "ready";
/// A timer that is due within this time is not worth sleeping for.
const CLOSE_ENOUGH: Duration = Duration::from_micros(20);

/// Starts the emulator and its rules unless it runs; true if it had to.
pub fn start(lab: &Lab, settings: &LinkSettings) -> Result<bool> {
    if process(lab).is_some() {
        return Ok(false);
    }
    let netns = lab.netns(Node::Link);
    let file = std::fs::File::create(lab.dir().join("link.log"))?;
    let mut command = Command::new(crate::daemons::binary("lab")?);
    command.arg("link-emulator").arg(serde_json::to_string(settings)?);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = netns.spawn(&mut command)?;
    let out = child.stdout.take().context("no output")?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    anyhow::ensure!(
        line.trim() == READY,
        "the link emulator ended at once: see {}/link.log",
        lab.dir().display()
    );
    let process = Process::running(child.id()).context("the link emulator ended at once")?;
    std::fs::write(lab.dir().join("link.pid"), serde_json::to_vec(&process)?)?;
    install_rules(&netns)?;
    Ok(true)
}

/// The emulator's process, if it runs.
pub fn process(lab: &Lab) -> Option<Process> {
    let text = std::fs::read(lab.dir().join("link.pid")).ok()?;
    let process: Process = serde_json::from_slice(&text).ok()?;
    process.alive().then_some(process)
}

fn install_rules(netns: &Netns) -> Result<()> {
    for program in ["iptables", "ip6tables"] {
        netns.run(Command::new(program).args(["-w", "-F", "FORWARD"]))?;
        for (queue, interface) in [("0", "to-client"), ("1", "to-proxy")] {
            let rule = ["-w", "-A", "FORWARD", "-i", interface, "-j", "NFQUEUE", "--queue-num", queue];
            netns.run(Command::new(program).args(rule))?;
        }
    }
    Ok(())
}

/// The emulator itself: both directions of this namespace's queues 0 and 1, until it is killed.
pub fn emulate(settings: LinkSettings) -> Result<()> {
    let queues = [bind(0)?, bind(1)?];
    println!("{READY}");
    thread::scope(|scope| {
        let directions = queues.into_iter().zip(0..);
        let workers: Vec<_> = directions
            .map(|(queue, direction)| scope.spawn(move || relay(queue, Schedule::new(settings, direction))))
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a direction panicked"))??;
        }
        Ok(())
    })
}

fn bind(number: u16) -> Result<Queue> {
    let config =
        QueueConfig { number, max_packets: 2 * schedule::MAX_PACKETS as u32, receive_buffer: 32 << 20 };
    Queue::bind(&config).with_context(|| format!("binding queue {number}"))
}

fn relay(mut queue: Queue, mut schedule: Schedule) -> Result<()> {
    loop {
        wait(&queue, &schedule)?;
        while receive(&mut queue, &mut schedule)? > 0 {}
        let now = now();
        while let Some(id) = schedule.poll_departure(now + CLOSE_ENOUGH) {
            queue.verdict(id, Verdict::Accept)?;
        }
        queue.flush()?;
    }
}

fn receive(queue: &mut Queue, schedule: &mut Schedule) -> Result<usize> {
    let now = now();
    let mut dropped = Ok(());
    let count = queue.recv_batch(&mut |packet, verdicts| {
        if !schedule.handle_packet(now, packet.id, packet.payload.len())
            && let Err(error) = verdicts.push(packet.id, Verdict::Drop)
        {
            dropped = Err(error);
        }
    })?;
    dropped?;
    Ok(count)
}

/// Waits for a packet or for the next departure.
fn wait(queue: &Queue, schedule: &Schedule) -> Result<()> {
    let timeout = schedule.poll_timeout().map(|due| due.since(now()));
    let timeout = timeout
        .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
    let fd = queue.as_fd();
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting for packets"),
    }
}

fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    Time::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
