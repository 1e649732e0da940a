//! The loop: sockets and clocks on one side, the [`Manager`] on the other. Decides nothing.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the clock")]

mod link;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::control::{Done, ToManager};
use cluster::lock::DaemonLock;
use cluster::runtime::Runtime;
use cluster::server::{Incoming, Server};
use daemon::{Configuration, Epoch, clock_us};
use recovery_manager::{Action, Limits, LoggerId, Manager, Now};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

use link::{Change, Link, Target};

/// Reads of one peer in a row.
const TURNS: usize = 4;

/// What a ready descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Stop,
    Hangup,
    Status,
    Proxy,
    Log(usize),
}

/// All of the daemon's sockets, and its engine.
pub(crate) struct Shell {
    manager: Manager,
    proxy: Link,
    logs: Vec<Link>,
    status: Server,
    configuration: Configuration,
    node: String,
    /// Readable when the daemon is to end.
    stop: OwnedFd,
}

impl Shell {
    pub(crate) fn new(
        configuration: Configuration,
        node: &str,
        runtime: &Runtime,
        lock: &DaemonLock,
        stop: OwnedFd,
    ) -> Result<Self> {
        let cluster = configuration.cluster();
        let us = configuration.identity(node)?;
        let epoch = Epoch::load(runtime.epoch("recovery-manager"))?.begin(clock_us())?;
        let log = |(name, logger): (&String, &cluster::config::Logger)| {
            let target = Target::Node(name.clone(), logger.control, us.clone());
            Link::new(format!("the transactionalizer on {name}"), target)
        };
        Ok(Self {
            manager: Manager::new(cluster, Limits::default(), epoch),
            proxy: Link::new("nfq-splice".to_owned(), Target::Unix(runtime.socket("nfq-splice"))),
            logs: cluster.loggers.iter().map(log).collect(),
            status: Server::unix(lock)?,
            configuration,
            node: node.to_owned(),
            stop,
        })
    }

    /// Runs until `stop` is readable.
    pub(crate) fn run(&mut self) -> Result<()> {
        loop {
            self.handle_timeouts();
            self.carry_out();
            let ready = self.wait()?;
            if ready.contains(&Owner::Stop) {
                return Ok(());
            }
            for owner in ready {
                self.serve(owner);
            }
        }
    }

    /// Acts on messages before it asks for more of them. A peer's error hides behind the messages that came with
    /// it until it is asked again; bounded, so that nobody keeps the daemon from the others.
    fn serve(&mut self, owner: Owner) {
        for _ in 0..TURNS {
            let more = self.handle_ready(owner);
            self.carry_out();
            if !more {
                return;
            }
        }
    }

    fn handle_timeouts(&mut self) {
        let time = now().monotonic;
        if self.manager.poll_timeout().is_some_and(|at| at <= time) {
            self.manager.handle_timeout(time);
        }
        if self.proxy.handle_timeout(time) {
            self.manager.handle_proxy_connected(time);
        }
        for (place, log) in self.logs.iter_mut().enumerate() {
            if log.handle_timeout(time) {
                self.manager.handle_log_connected(LoggerId(place));
            }
        }
    }

    /// Sleeps until something is ready or due. The logs come first: their reports must not wait.
    fn wait(&self) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        let mut fds = Vec::new();
        let logs = self.logs.iter().enumerate().map(|(place, log)| (Owner::Log(place), log));
        for (owner, link) in logs.chain([(Owner::Proxy, &self.proxy)]) {
            if let Some((fd, events)) = link.interest() {
                owners.push(owner);
                fds.push(PollFd::from_borrowed_fd(fd, events));
            }
        }
        for (fd, events) in self.status.interest() {
            owners.push(Owner::Status);
            fds.push(PollFd::from_borrowed_fd(fd, events));
        }
        owners.push(Owner::Hangup);
        fds.push(PollFd::from_borrowed_fd(self.configuration.as_fd(), PollFlags::IN));
        owners.push(Owner::Stop);
        fds.push(PollFd::new(&self.stop, PollFlags::IN));
        match poll(&mut fds, self.sleep().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("could not wait for the control sockets"),
        }
        let mut ready: Vec<Owner> = owners
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(owner, _)| owner)
            .collect();
        ready.dedup();
        Ok(ready)
    }

    fn sleep(&self) -> Option<Timespec> {
        let links = self.logs.iter().chain([&self.proxy]).filter_map(Link::poll_timeout);
        let due = self.manager.poll_timeout().into_iter().chain(links).min()?;
        let sleep = due.since(now().monotonic);
        Some(Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: i64::from(sleep.subsec_nanos()) })
    }

    /// True if there were messages.
    fn handle_ready(&mut self, owner: Owner) -> bool {
        match owner {
            Owner::Stop => false,
            Owner::Hangup => {
                if self.configuration.was_hung_up() {
                    let _ = self.reload();
                }
                false
            }
            Owner::Status => self.answer_status(),
            Owner::Proxy => self.handle_proxy(),
            Owner::Log(place) => self.handle_log(place),
        }
    }

    fn handle_proxy(&mut self) -> bool {
        let now = now();
        match self.proxy.handle_ready(now.monotonic) {
            Change::None => {}
            Change::Connected => self.manager.handle_proxy_connected(now.monotonic),
            Change::Disconnected => self.manager.handle_proxy_disconnected(now.monotonic),
            Change::Messages(messages) => {
                let some = !messages.is_empty();
                for message in messages {
                    self.manager.handle_proxy(now, message);
                }
                return some;
            }
        }
        false
    }

    fn handle_log(&mut self, place: usize) -> bool {
        let now = now();
        let Some(log) = self.logs.get_mut(place) else { return false };
        let id = LoggerId(place);
        match log.handle_ready(now.monotonic) {
            Change::None => {}
            Change::Connected => self.manager.handle_log_connected(id),
            Change::Disconnected => self.manager.handle_log_disconnected(id),
            Change::Messages(messages) => {
                let some = !messages.is_empty();
                for message in messages {
                    self.manager.handle_log(now, id, message);
                }
                return some;
            }
        }
        false
    }

    fn answer_status(&mut self) -> bool {
        for incoming in self.status.handle_ready() {
            match incoming {
                Incoming::Message(peer, ToManager::Status) => self.status.send(peer, &self.manager.status()),
                Incoming::Message(peer, ToManager::Mismatches) => {
                    self.status.send(peer, &self.manager.mismatches());
                }
                Incoming::Message(peer, ToManager::Reload) => {
                    let done = self.reload();
                    self.status.send(peer, &done);
                }
                Incoming::Connected(_) | Incoming::Disconnected(..) => {}
            }
        }
        false
    }

    fn reload(&mut self) -> Done {
        let Self { configuration, manager, logs, node, .. } = self;
        let identity = configuration.identity(node);
        configuration.reload(|_, new| {
            let identity = identity?;
            for log in logs.iter_mut() {
                log.replace_identity(&identity);
            }
            manager.handle_reload(new);
            Ok(())
        })
    }

    /// Does what the manager asks for. Orders go out before anything is logged of them.
    fn carry_out(&mut self) {
        let mut stories = Vec::new();
        loop {
            let time = now().monotonic;
            match self.manager.poll_action(time) {
                None => break,
                Some(Action::Tell(story)) => stories.push(story),
                Some(Action::ToProxy(message)) => {
                    if !self.proxy.send(&message, time) {
                        self.manager.handle_proxy_disconnected(time);
                    }
                }
                Some(Action::ToLog(id, message)) => {
                    let Some(log) = self.logs.get_mut(id.0) else { continue };
                    if !log.send(&message, time) {
                        self.manager.handle_log_disconnected(id);
                    }
                }
            }
        }
        for story in stories {
            if story.is_bad() { tracing::warn!("{story}") } else { tracing::info!("{story}") }
        }
    }
}

/// The clocks.
fn now() -> Now {
    let at = clock_gettime(ClockId::Realtime);
    let unix = Duration::new(at.tv_sec.unsigned_abs(), at.tv_nsec as u32);
    Now { monotonic: daemon::now(), unix_ms: unix.as_millis() as u64 }
}
