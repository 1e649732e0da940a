//! A client's body that is sent a moment after its head may overtake the end of the handshake with the backend, because the kernel
//! has begun to translate by then. Linux (6.15 and later) takes nothing in SYN-RECEIVED that echoes a clock older than its SYN-ACK: the
//! body would come again only when a retransmission timer ends.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::hint::spin_loop;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::http::Behaviour;
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::{Lab, Node};

/// Of each path.
const CONNECTIONS: u64 = 300;
/// The client's clock must be behind the backend's: clocks count milliseconds.
const THINKING: Duration = Duration::from_millis(3);
/// From head to body, about as long as a splice takes.
const APART: u64 = 1500;

/// Segments refused for the clock that they echo, at both backends.
fn refused(lab: &Lab) -> Result<u64> {
    let mut all = 0;
    for node in Node::BACKENDS {
        let text =
            lab.netns(node).within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
        let [names, values] = lines[..] else { continue };
        let counters = names.split_whitespace().zip(values.split_whitespace());
        all += counters
            .filter(|(name, _)| *name == "TSEcrRejected")
            .map(|(_, value)| value.parse().unwrap_or(0))
            .sum::<u64>();
    }
    Ok(all)
}

fn post(lab: &Lab, apart: Duration) -> Result<Duration> {
    let mut connection = lab.open(Behaviour::default())?;
    sleep(THINKING);
    let began = Instant::now();
    connection.send(b"POST /echo HTTP/1.1\r\nHost: lab\r\nContent-Length: 5\r\n\r\n")?;
    let sent = Instant::now();
    while sent.elapsed() < apart {
        spin_loop();
    }
    connection.send(b"hello")?;
    let answer = connection.receive(false, &mut |_| Ok(()))?;
    ensure!(answer.status == 200 && answer.body_bytes == 5, "{answer:?}");
    Ok(began.elapsed())
}

#[test]
fn no_backend_refuses_the_body() -> Result<()> {
    for path in [Path::Kernel, Path::Userspace] {
        in_lab(&Settings { path, ..Settings::default() }, |lab| {
            lab.await_backends()?;
            let mut longest = Duration::ZERO;
            for number in 0..CONNECTIONS {
                let apart = Duration::from_micros(number * 7 % APART);
                longest = longest.max(post(lab, apart)?);
            }
            let refused = refused(lab)?;
            ensure!(refused == 0, "{path:?}: {refused} segments refused, longest request {longest:?}");
            Ok(())
        })?;
    }
    Ok(())
}
