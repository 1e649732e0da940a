//! The two ends of the connections: they send as fast as they can, and hash what they send and what they receive.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setpriority_process;

use super::sum::{ByPort, Carried, Sum, Summing};
use crate::chance::Chance;
use crate::lab::Lab;
use crate::topology::Node;

/// How long nothing may come before that is an error: longer than TCP's pauses where the logger drops much.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes written and read at once.
const PIECE: usize = 64 << 10;
/// Bytes of a client's order: how much it will send, how much it wants, and the seed of both.
const ORDER: usize = 24;

/// What both ends have seen, and what is common to their threads.
pub(super) struct Ends {
    to: SocketAddrV4,
    noise: Vec<u8>,
    /// Bytes received at both ends.
    pub(super) exchanged: AtomicU64,
    pub(super) clients: Mutex<ByPort>,
    pub(super) servers: Mutex<ByPort>,
    stop: AtomicBool,
}

/// What one connection carries, bytes each way.
#[derive(Debug, Clone, Copy)]
struct Order {
    up: u64,
    down: u64,
    seed: u64,
}

impl Order {
    /// Workers differ: download, upload, both at once, little of each.
    fn of(worker: usize, most: u64, chance: &mut Chance) -> Self {
        let (seed, some) = (chance.next_u64(), chance.next_u64());
        let much = most / 2 + some % (most / 2).max(1);
        let (up, down) = match worker % 4 {
            0 | 1 => (200, much),
            2 => (much / 2, much / 2),
            _ => (some % 20_000, some / 7 % 20_000),
        };
        Self { up, down, seed }
    }

    fn to_bytes(self) -> [u8; ORDER] {
        let mut bytes = [0; ORDER];
        for (place, value) in bytes.chunks_exact_mut(8).zip([self.up, self.down, self.seed]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; ORDER]) -> Self {
        let (values, _) = bytes.as_chunks::<8>();
        let value = |at: usize| values.get(at).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self { up: value(0), down: value(1), seed: value(2) }
    }
}

impl Ends {
    pub(super) fn new(to: SocketAddrV4) -> Self {
        let mut chance = Chance::new(1);
        let noise = (0..1 << 17).flat_map(|_| chance.next_u64().to_le_bytes()).collect();
        Self {
            to,
            noise,
            exchanged: AtomicU64::new(0),
            clients: Mutex::default(),
            servers: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Serves until [`run_clients`](Self::run_clients) has ended.
    pub(super) fn run_server(&self, lab: &Lab, listening: &std::sync::Barrier) -> Result<()> {
        lab.netns(Node::B1).within(|| {
            give_way()?;
            let listener = TcpListener::bind(self.to).context("listening in place of nginx");
            listening.wait();
            let listener = listener?;
            std::thread::scope(|scope| {
                let mut served = Vec::new();
                while !self.stop.load(Ordering::Relaxed) {
                    if let Some((stream, peer)) = accept(&listener)? {
                        served.push(scope.spawn(move || self.serve(&stream, peer)));
                    }
                    while let Some(done) = served.iter().position(std::thread::ScopedJoinHandle::is_finished)
                    {
                        joined(served.swap_remove(done))?;
                    }
                }
                served.into_iter().try_for_each(joined)
            })
        })
    }

    /// Opens one connection after the other on each of `workers` threads, for `length`.
    pub(super) fn run_clients(&self, lab: &Lab, workers: usize, most: u64, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        let result = lab.netns(Node::Client).within(|| {
            give_way()?;
            std::thread::scope(|scope| {
                let work = |worker: usize| move || self.work(worker, most, end);
                let workers: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
                workers.into_iter().try_for_each(joined)
            })
        });
        self.stop.store(true, Ordering::Relaxed);
        result
    }

    fn work(&self, worker: usize, most: u64, end: Instant) -> Result<()> {
        let mut chance = Chance::new(worker as u64);
        while Instant::now() < end {
            let order = Order::of(worker, most, &mut chance);
            let stream = TcpStream::connect(self.to).context("connecting through the logger")?;
            let mut sent = Summing::default();
            (&stream).write_all(&order.to_bytes())?;
            sent.push(&order.to_bytes());
            let (up, down) = self.exchange(&stream, Summing::default(), (sent, order.up, !order.seed))?;
            record(&self.clients, stream.local_addr()?.port(), Carried { up, down, lapped: false });
        }
        Ok(())
    }

    fn serve(&self, stream: &TcpStream, peer: SocketAddr) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut head, mut received) = ([0; ORDER], Summing::default());
        (&*stream).read_exact(&mut head)?;
        received.push(&head);
        let order = Order::from_bytes(head);
        let (down, up) = self.exchange(stream, received, (Summing::default(), order.down, order.seed))?;
        record(&self.servers, peer.port(), Carried { up, down, lapped: false });
        Ok(())
    }

    /// Sends `bytes`, and receives until the peer has sent all, at the same time: what was sent and what was received.
    fn exchange(
        &self,
        stream: &TcpStream,
        received: Summing,
        (sent, bytes, seed): (Summing, u64, u64),
    ) -> Result<(Sum, Sum)> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || self.send(stream, sent, bytes, seed));
            let received = self.receive(stream, received)?;
            let sent = sending.join().map_err(|_| anyhow!("a sender panicked"))??;
            Ok((sent, received))
        })
    }

    /// Pieces of noise, each with its number and the connection's seed: no two are the same.
    fn send(&self, mut stream: &TcpStream, mut sum: Summing, bytes: u64, seed: u64) -> Result<Sum> {
        let mut piece = vec![0; PIECE];
        for (number, at) in (0_u64..).zip((0..bytes).step_by(PIECE)) {
            let mark = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let from = mark as usize % (self.noise.len() - PIECE);
            let length = (bytes - at).min(PIECE as u64) as usize;
            let (piece, noise) = (piece.split_at_mut(length).0, self.noise.get(from..from + length));
            piece.copy_from_slice(noise.context("the noise is too short")?);
            piece.iter_mut().zip(mark.to_le_bytes()).for_each(|(byte, mark)| *byte = mark);
            stream.write_all(piece)?;
            sum.push(piece);
        }
        stream.shutdown(Shutdown::Write)?;
        Ok(sum.sum())
    }

    fn receive(&self, mut stream: &TcpStream, mut sum: Summing) -> Result<Sum> {
        let mut buffer = vec![0; 4 * PIECE];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(sum.sum());
            }
            sum.push(buffer.get(..count).unwrap_or_default());
            self.exchanged.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// The ends stand for other hosts: their many threads must not take the processors from the logger and its readers. Goes for
/// this thread and those that it starts.
fn give_way() -> Result<()> {
    Ok(setpriority_process(None, 10)?)
}

fn accept(listener: &TcpListener) -> Result<Option<(TcpStream, SocketAddr)>> {
    let timeout = Timespec::try_from(Duration::from_millis(100))?;
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout))?;
    Ok(if ready > 0 { Some(listener.accept()?) } else { None })
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a thread of the endpoints panicked"))?
}

fn record(ends: &Mutex<ByPort>, port: u16, carried: Carried) {
    let mut ends = ends.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    ends.entry(port).or_default().push(carried);
}
