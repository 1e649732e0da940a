//! The loop: sockets and clocks on one side, the [`Manager`] on the other. Decides nothing.

mod link;
mod peer;
mod status;

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::config::Cluster;
use cluster::control::{FromLog, FromProxy};
use cluster::runtime::Runtime;
use packet::Time;
use recovery_manager::{Action, Limits, LoggerId, Manager, Now};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

use link::{Change, Link, Target};
use status::StatusServer;

/// Orders that wait for the proxy; the manager's reports are bounded well below.
const MOST_FOR_PROXY: usize = 1 << 30;
const MOST_FOR_LOG: usize = 16 << 20;

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Stop,
    Listener,
    Proxy,
    Log(LoggerId),
    Client(usize),
}

/// All of the daemon's sockets, and its engine.
pub(crate) struct Shell {
    manager: Manager,
    proxy: Link,
    logs: Vec<Link>,
    status: StatusServer,
    /// Readable when the daemon is to end.
    stop: OwnedFd,
    buffer: Vec<u8>,
}

impl Shell {
    pub(crate) fn new(cluster: &Cluster, runtime: &Runtime, stop: OwnedFd) -> Result<Self> {
        let log = |(name, logger): (&String, &cluster::config::Logger)| {
            Link::new(format!("transactionalizer on {name}"), Target::Tcp(logger.control), MOST_FOR_LOG)
        };
        let proxy = Target::Unix(runtime.socket("nfq-splice"));
        Ok(Self {
            manager: Manager::new(cluster, Limits::default(), now().unix_ms.saturating_mul(1000)),
            proxy: Link::new("nfq-splice".to_owned(), proxy, MOST_FOR_PROXY),
            logs: cluster.loggers.iter().map(log).collect(),
            status: StatusServer::bind(&runtime.socket("recovery-manager"))?,
            stop,
            buffer: Vec::new(),
        })
    }

    /// Runs until `stop` is readable.
    pub(crate) fn run(&mut self) -> Result<()> {
        loop {
            self.handle_timeouts();
            self.carry_out();
            for (owner, events) in self.wait()? {
                if matches!(owner, Owner::Stop) {
                    return Ok(());
                }
                self.handle_ready(owner, events);
                self.carry_out();
            }
        }
    }

    fn handle_timeouts(&mut self) {
        let time = now().monotonic;
        if self.manager.poll_timeout().is_some_and(|at| at <= time) {
            self.manager.handle_timeout(time);
        }
        if self.proxy.handle_timeout(time) == Change::Connected {
            self.manager.handle_proxy_connected();
        }
        for (place, log) in self.logs.iter_mut().enumerate() {
            if log.handle_timeout(time) == Change::Connected {
                self.manager.handle_log_connected(LoggerId(place));
            }
        }
    }

    /// Sleeps until something is ready or due.
    fn wait(&self) -> Result<Vec<(Owner, PollFlags)>> {
        let mut owners = vec![Owner::Stop, Owner::Listener];
        let mut fds = vec![
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::from_borrowed_fd(self.status.listener(), PollFlags::IN),
        ];
        let links = self.logs.iter().enumerate().map(|(place, log)| (Owner::Log(LoggerId(place)), log));
        for (owner, link) in links.chain([(Owner::Proxy, &self.proxy)]) {
            if let Some((fd, events)) = link.interest() {
                owners.push(owner);
                fds.push(PollFd::from_borrowed_fd(fd, events));
            }
        }
        for (place, fd, events) in self.status.interest() {
            owners.push(Owner::Client(place));
            fds.push(PollFd::from_borrowed_fd(fd, events));
        }
        match poll(&mut fds, self.sleep().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("could not poll"),
        }
        let ready = owners.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn sleep(&self) -> Option<Timespec> {
        let links = self.logs.iter().chain([&self.proxy]).filter_map(Link::poll_timeout);
        let due = self.manager.poll_timeout().into_iter().chain(links).min()?;
        let sleep = due.since(now().monotonic);
        Some(Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: i64::from(sleep.subsec_nanos()) })
    }

    fn handle_ready(&mut self, owner: Owner, events: PollFlags) {
        match owner {
            Owner::Stop => {}
            Owner::Listener => self.status.accept(),
            Owner::Client(place) => self.status.serve(place, &mut self.buffer, &self.manager),
            Owner::Proxy => self.handle_proxy(events),
            Owner::Log(id) => self.handle_log(id, events),
        }
    }

    fn handle_proxy(&mut self, events: PollFlags) {
        let now = now();
        if self.proxy.handle_connecting(now.monotonic) == Change::Connected {
            return self.manager.handle_proxy_connected();
        }
        let (manager, buffer) = (&mut self.manager, &mut self.buffer);
        let took = exchange(&mut self.proxy, events, buffer, |message: FromProxy| {
            manager.handle_proxy(now, message);
        });
        if let Err(error) = took {
            self.proxy.fail(now.monotonic, &error);
            self.manager.handle_proxy_disconnected();
        }
    }

    fn handle_log(&mut self, id: LoggerId, events: PollFlags) {
        let now = now();
        let Some(log) = self.logs.get_mut(id.0) else { return };
        if log.handle_connecting(now.monotonic) == Change::Connected {
            return self.manager.handle_log_connected(id);
        }
        let (manager, buffer) = (&mut self.manager, &mut self.buffer);
        let took =
            exchange(log, events, buffer, |message: FromLog| manager.handle_log(now, id, message));
        if let Err(error) = took {
            log.fail(now.monotonic, &error);
            self.manager.handle_log_disconnected(id);
        }
    }

    /// Does what the manager asks for.
    fn carry_out(&mut self) {
        while let Some(action) = self.manager.poll_action(now().monotonic) {
            match action {
                Action::ToProxy(message) => {
                    let sent = self.proxy.peer().map_or(Ok(()), |peer| peer.send(&message));
                    if let Err(error) = sent {
                        self.proxy.fail(now().monotonic, &error);
                        self.manager.handle_proxy_disconnected();
                    }
                }
                Action::ToLog(id, message) => {
                    let Some(log) = self.logs.get_mut(id.0) else { continue };
                    let sent = log.peer().map_or(Ok(()), |peer| peer.send(&message));
                    if let Err(error) = sent {
                        log.fail(now().monotonic, &error);
                        self.manager.handle_log_disconnected(id);
                    }
                }
                Action::Tell(story) if story.is_bad() => tracing::warn!("{story}"),
                Action::Tell(story) => tracing::info!("{story}"),
            }
        }
    }
}

/// Writes what waits, reads what came and gives it on.
fn exchange<T: serde::de::DeserializeOwned>(
    link: &mut Link,
    events: PollFlags,
    buffer: &mut Vec<u8>,
    mut handle: impl FnMut(T),
) -> Result<()> {
    let Some(peer) = link.peer() else { return Ok(()) };
    if events.contains(PollFlags::OUT) {
        peer.flush()?;
    }
    if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
        return Ok(());
    }
    let open = peer.receive(buffer)?;
    while let Some(message) = peer.next()? {
        handle(message);
    }
    if open { Ok(()) } else { anyhow::bail!("the peer closed the connection") }
}

/// The clocks.
fn now() -> Now {
    let nanos = |clock| {
        let at = clock_gettime(clock);
        Duration::new(at.tv_sec.unsigned_abs(), at.tv_nsec as u32)
    };
    Now {
        monotonic: Time::from_nanos(nanos(ClockId::Monotonic).as_nanos() as u64),
        unix_ms: nanos(ClockId::Realtime).as_millis() as u64,
    }
}
