//! Clients that keep the backends busy, each a thread with one connection after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::chance::Chance;
use crate::http::{Behaviour, Connection, End};
use crate::lab::Lab;
use crate::testing::await_condition;

/// Mean time of a [`Work::Wait`], seconds.
const MEAN_WAIT_S: f64 = 0.02;
/// Pause of an idle client between two looks at whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Downloads 300 MB at 20 MB/s, again and again.
    Download,
    /// Requests that take 20 ms on average, at least 5.
    Wait,
    /// Small requests, one every few milliseconds.
    Request,
    /// Small requests without a pause.
    Flood,
    /// Connects, asks once, and is silent.
    Idle,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Responses received in full.
    complete: AtomicU64,
    /// Connections that ended otherwise than by their client's will.
    broken: AtomicU64,
    /// Clients that have had a first answer on their connection.
    settled: AtomicU64,
}

/// All clients.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts one client for each piece of work.
    pub(super) fn start(lab: &Lab, work: &[Work]) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let start = |(seed, work): (u64, &Work)| {
            let (lab, shared, work) = (lab.clone(), Arc::clone(&shared), *work);
            let client = move || Client { lab, shared, work, chance: Chance::new(seed) }.run();
            Ok(thread::Builder::new().name("load".to_owned()).spawn(client)?)
        };
        let clients = (1..).zip(work).map(start).collect::<Result<_>>()?;
        Ok(Self { shared, clients })
    }

    /// Waits until every client is being served.
    pub(super) fn await_settled(&self, patience: Duration) -> Result<()> {
        let clients = self.clients.len() as u64;
        await_condition("all clients served", patience, || {
            if self.clients.iter().any(JoinHandle::is_finished) {
                bail!("a client has ended");
            }
            Ok(self.shared.settled.load(Ordering::Relaxed) == clients)
        })
    }

    /// Responses received, and connections broken.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.shared.complete.load(Ordering::Relaxed), self.shared.broken.load(Ordering::Relaxed))
    }

    /// Ends all clients.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self.clients.drain(..).map(JoinHandle::join).collect();
        ends.into_iter().try_for_each(|end| end.map_err(|_| anyhow!("a client panicked")))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Whoever drops it without `stop` has an error already.
        let _ = self.end();
    }
}

struct Client {
    lab: Lab,
    shared: Arc<Shared>,
    work: Work,
    chance: Chance,
}

impl Client {
    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn run(mut self) {
        while !self.stopped() {
            let behaviour = Behaviour {
                rate: (self.work == Work::Download).then_some(20_000_000),
                limit: Duration::from_secs(3600),
                patience: Duration::from_secs(5),
                ..Behaviour::default()
            };
            // Both backends may be down for a moment: the next attempt follows.
            let Ok(mut connection) = Connection::open(&self.lab, self.lab.service(), behaviour) else {
                thread::sleep(LOOK);
                continue;
            };
            let mut settled = false;
            let served = self.use_connection(&mut connection, &mut settled);
            if settled {
                self.shared.settled.fetch_sub(1, Ordering::Relaxed);
            }
            if served.is_err() && !self.stopped() {
                self.shared.broken.fetch_add(1, Ordering::Relaxed);
                thread::sleep(LOOK);
            }
        }
    }

    /// Until it breaks or the load ends.
    fn use_connection(&mut self, connection: &mut Connection, settled: &mut bool) -> Result<()> {
        while !self.stopped() {
            let path = self.path();
            let shared = Arc::clone(&self.shared);
            let response = connection.get_watched(&path, &mut |_| {
                if !std::mem::replace(settled, true) {
                    shared.settled.fetch_add(1, Ordering::Relaxed);
                }
                ensure!(!shared.stop.load(Ordering::Relaxed), "the load ends");
                Ok(())
            })?;
            if response.end != End::Complete || response.status != 200 {
                bail!("{response:?}");
            }
            self.shared.complete.fetch_add(1, Ordering::Relaxed);
            match self.work {
                Work::Request => thread::sleep(Duration::from_millis(3)),
                Work::Idle => self.await_end(connection)?,
                Work::Download | Work::Wait | Work::Flood => {}
            }
        }
        Ok(())
    }

    fn path(&mut self) -> String {
        match self.work {
            Work::Download => "/files/300m".to_owned(),
            Work::Request | Work::Flood | Work::Idle => "/files/1k".to_owned(),
            Work::Wait => {
                let exponential = -(1.0 - self.chance.next_unit()).ln();
                let seconds = (0.005 + (MEAN_WAIT_S - 0.005) * exponential).min(0.1);
                format!("/wait?s={seconds:.3}")
            }
        }
    }

    /// An idle connection that ends has been broken.
    fn await_end(&self, connection: &mut Connection) -> Result<()> {
        connection.stream().set_read_timeout(Some(LOOK)).context("setting a timeout")?;
        while !self.stopped() {
            match connection.stream().peek(&mut [0]) {
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                end => bail!("an idle connection ended: {end:?}"),
            }
        }
        Ok(())
    }
}
