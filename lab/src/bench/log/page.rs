//! A page: ten requests on a connection of their own, each sent when the one before is answered; the server takes 10 ms
//! for each.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::topology::Node;

/// Requests of a page.
const REQUESTS: usize = 10;
const REQUEST: &[u8] = b"GET /slow HTTP/1.1\r\nHost: lab\r\n\r\n";
/// How its chunked answer ends.
const END: &[u8] = b"\r\n0\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(5);

/// The median time of a page, ms, among those that fit into `length`, at least three.
pub(super) fn measure(lab: &Lab, to: SocketAddrV4, length: Duration) -> Result<f64> {
    lab.netns(Node::Client).within(|| {
        page(to)?;
        let (started, mut times) = (Instant::now(), Vec::new());
        while started.elapsed() < length || times.len() < 3 {
            times.push(page(to)?);
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).context("no page")?;
        Ok(median.as_secs_f64() * 1e3)
    })
}

fn page(to: SocketAddrV4) -> Result<Duration> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..REQUESTS {
        stream.write_all(REQUEST)?;
        answer(&mut stream)?;
    }
    Ok(started.elapsed())
}

fn answer(stream: &mut TcpStream) -> Result<()> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(END) {
        let count = stream.read(&mut buffer).context("waiting for an answer")?;
        ensure!(count > 0, "closed in an answer");
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "answered {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}
