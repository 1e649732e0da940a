//! What the load generator does with its connections: bulk streams, a constant rate, holding them idle.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::set_current_timer_slack;

use super::client::Client;
use crate::lab::Lab;
use crate::topology::Node;

/// How long nothing may come before that is an error.
const STALL: Duration = Duration::from_secs(5);
/// Handshakes at a time.
pub(in crate::bench) const OPENING: usize = 64;

/// Downloads `path` again and again on each of `streams` connections, for `length`; bytes and the time they took.
pub(in crate::bench) fn bulk(
    lab: &Lab,
    to: SocketAddrV4,
    path: &str,
    streams: usize,
    length: Duration,
) -> Result<(u64, Duration)> {
    lab.netns(Node::Client).within(|| {
        let mut client = Client::new(to, path)?;
        for _ in 0..streams {
            client.open()?;
        }
        let took = keep_busy(&mut client, length)?;
        Ok((client.received(), took))
    })
}

/// Opens connections one after another, then lets all download `path` again and again for `length`, and calls `job`
/// while they do. How much they need in their handshakes is not seen then.
pub(in crate::bench) fn busy<T: Send>(
    lab: &Lab,
    to: SocketAddrV4,
    path: &str,
    (count, length): (usize, Duration),
    job: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    lab.netns(Node::Client).within(|| {
        let mut client = Client::new(to, path)?;
        open_all(&mut client, count)?;
        for index in 0..count {
            client.ask(index)?;
        }
        keep_busy(&mut client, length)?;
        job()
    })
}

/// Opens connections, lets each fetch `path` once, and calls `job` while they are idle.
pub(in crate::bench) fn hold<T: Send>(
    lab: &Lab,
    to: SocketAddrV4,
    path: &str,
    count: usize,
    job: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    lab.netns(Node::Client).within(|| {
        let mut client = Client::new(to, path)?;
        open_all(&mut client, count)?;
        job()
    })
}

/// As [`hold`], and lets each fetch `path` once more after the job.
pub(in crate::bench) fn hold_and_ask<T: Send>(
    lab: &Lab,
    to: SocketAddrV4,
    path: &str,
    count: usize,
    job: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    lab.netns(Node::Client).within(|| {
        let mut client = Client::new(to, path)?;
        open_all(&mut client, count)?;
        let found = job()?;
        ask_all(&mut client).context("asking again")?;
        Ok(found)
    })
}

/// Sends `rate` requests a second for `length`, spread over `connections` that were used once before. The latencies,
/// sorted, each from when the request was due: a late one counts what it waited for a free connection.
pub(in crate::bench) fn constant_rate(
    lab: &Lab,
    to: SocketAddrV4,
    path: &str,
    connections: usize,
    schedule: Schedule,
) -> Result<Vec<Duration>> {
    lab.netns(Node::Client).within(|| {
        set_current_timer_slack(NonZeroU64::new(1))?;
        let mut client = Client::new(to, path)?;
        open_all(&mut client, connections)?;
        let mut latencies = send_on_time(&mut client, schedule)?;
        latencies.sort_unstable();
        Ok(latencies)
    })
}

/// For how long it really was.
fn keep_busy(client: &mut Client, length: Duration) -> Result<Duration> {
    let started = Instant::now();
    let mut done = Vec::new();
    while started.elapsed() < length {
        wait(client, &mut done)?;
        for index in done.drain(..) {
            client.ask(index)?;
        }
    }
    Ok(started.elapsed())
}

fn open_all(client: &mut Client, count: usize) -> Result<()> {
    let (mut idle, mut done) = (0, Vec::new());
    while idle < count {
        while client.len() < count && client.len() - idle < OPENING {
            client.open()?;
        }
        wait(client, &mut done)?;
        idle += done.drain(..).len();
    }
    Ok(())
}

fn ask_all(client: &mut Client) -> Result<()> {
    let (mut asked, mut answered, mut done) = (0, 0, Vec::new());
    while answered < client.len() {
        while asked < client.len() && asked - answered < OPENING {
            client.ask(asked)?;
            asked += 1;
        }
        wait(client, &mut done)?;
        answered += done.drain(..).len();
    }
    Ok(())
}

fn wait(client: &mut Client, done: &mut Vec<usize>) -> Result<()> {
    let before = client.received();
    let started = Instant::now();
    client.wait(STALL, done)?;
    ensure!(client.received() > before || started.elapsed() < STALL, "nothing came for {STALL:?}");
    Ok(())
}

fn send_on_time(client: &mut Client, schedule: Schedule) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(schedule.requests() as usize);
    let mut free: VecDeque<usize> = (0..client.len()).collect();
    let mut due_of = vec![Duration::ZERO; client.len()];
    let (mut next, mut done) = (0, Vec::new());
    let started = Instant::now();
    while (latencies.len() as u64) < schedule.requests() {
        while let Some(due) = schedule.due(next).filter(|due| *due <= started.elapsed()) {
            let Some(index) = free.pop_front() else { break };
            client.ask(index)?;
            *due_of.get_mut(index).context("no such connection")? = due;
            next += 1;
        }
        let pause = schedule.due(next).filter(|_| !free.is_empty());
        client.wait(pause.map_or(STALL, |due| due.saturating_sub(started.elapsed())), &mut done)?;
        let now = started.elapsed();
        for index in done.drain(..) {
            latencies.push(now.saturating_sub(due_of.get(index).copied().unwrap_or_default()));
            free.push_back(index);
        }
        ensure!(now < schedule.length + STALL, "it does not keep up: {} answers in {now:?}", latencies.len());
    }
    Ok(latencies)
}

/// Requests at a constant rate.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Schedule {
    /// Requests per second.
    pub(in crate::bench) rate: f64,
    /// For so long.
    pub(in crate::bench) length: Duration,
}

impl Schedule {
    fn requests(&self) -> u64 {
        (self.rate * self.length.as_secs_f64()) as u64
    }

    /// When the request of that number, from 0, is due; none after the last.
    fn due(&self, number: u64) -> Option<Duration> {
        (number < self.requests()).then(|| Duration::from_secs_f64(number as f64 / self.rate))
    }
}

/// The value that a share `part` (0–1) of the sorted values do not exceed: nearest rank.
pub(in crate::bench) fn percentile(sorted: &[Duration], part: f64) -> Option<Duration> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_equal_distances() {
        let schedule = Schedule { rate: 1000.0, length: Duration::from_secs(2) };
        assert_eq!(schedule.requests(), 2000);
        assert_eq!(schedule.due(0), Some(Duration::ZERO));
        assert_eq!(schedule.due(1999), Some(Duration::from_millis(1999)));
        assert_eq!(schedule.due(2000), None);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&sorted, 0.99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&sorted, 1.0), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&sorted, 0.0), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 0.99), None);
    }
}
