//! The loop's sleep, and what woke it.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use packet::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use daemon::now;

use super::Shell;
use super::neighbours::Neighbours;

/// Which descriptors are ready, by whose they are.
#[derive(Debug)]
struct Ready {
    stop: bool,
    hung_up: bool,
    neighbours: bool,
    link: bool,
    managers: bool,
    status: bool,
    probes: Vec<bool>,
}

/// What has been read of the log since the last sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// There is more to read.
    No,
    /// All of it, and that was little.
    Little,
    /// All of it, and that was so much that there will be more in a moment.
    Much,
}

/// So many bytes are much.
pub(super) const MUCH: usize = 32 << 10;
/// Under bulk traffic the log is read so often: to be woken by each of its batches costs more than to read them. It is short against
/// the time in which a failure must be noticed.
const NAP: Duration = Duration::from_micros(100);

impl Shell {
    /// Sleeps until something happens, or not at all if there is more to read; `true`: stop.
    pub(super) fn wait(&mut self, drained: Drained) -> Result<bool> {
        let timeout = match drained {
            Drained::No => Duration::ZERO,
            Drained::Little => self.sleep(),
            Drained::Much => self.sleep().min(NAP),
        };
        let ready = self.poll(drained == Drained::Little, timeout)?;
        self.handle_probes(&ready.probes);
        if ready.neighbours {
            self.handle_neighbours();
        }
        if ready.link {
            self.link.handle_ready();
        }
        self.managers.drop_slow();
        // Not before the log tells what became of their clients: they would be told less, and lose what it has of uploads.
        if ready.managers && self.engine.is_live() {
            self.managers.handle_ready(now(), &mut self.engine, &self.bytes);
        }
        if ready.status {
            self.handle_status();
        }
        if ready.hung_up && self.configuration.was_hung_up() {
            let _ = self.reload();
        }
        Ok(ready.stop)
    }

    fn poll(&mut self, woken: bool, timeout: Duration) -> Result<Ready> {
        let mut interest: Vec<(BorrowedFd<'_>, PollFlags)> = vec![];
        let stop = extend(&mut interest, [(self.stop.as_fd(), PollFlags::IN)]);
        let log = self.log.waker().filter(|_| woken);
        extend(&mut interest, log.map(|waker| (waker.arm(self.log.last()), PollFlags::IN)));
        let configuration = extend(&mut interest, [(self.configuration.as_fd(), PollFlags::IN)]);
        let lost = self.neighbours.iter().map(|neighbours| (neighbours.as_fd(), PollFlags::IN));
        let neighbours = extend(&mut interest, lost);
        let link = extend(&mut interest, self.link.interest());
        let managers = extend(&mut interest, self.managers.server().interest());
        let status = extend(&mut interest, self.status.interest());
        let probes = extend(&mut interest, self.prober.interest());
        let (before, asleep) = (self.looked, now());
        let ready = poll_ready(&interest, timeout)?;
        self.looked = now();
        if let Some(waker) = self.log.waker().filter(|_| woken) {
            waker.disarm();
        }
        // What kept us asleep shows only beyond the time that we wanted to sleep.
        let turn = self.pauses.note(before, asleep);
        let overslept = self.pauses.note(asleep + timeout, self.looked);
        turn.into_iter().chain(overslept).for_each(|text| tracing::warn!("{text}"));
        let of = |range: Range<usize>| ready.get(range).unwrap_or_default();
        let any = |range| of(range).contains(&true);
        Ok(Ready {
            stop: any(stop),
            hung_up: any(configuration),
            neighbours: any(neighbours),
            link: any(link),
            managers: any(managers),
            status: any(status),
            probes: of(probes).to_vec(),
        })
    }

    fn sleep(&mut self) -> Duration {
        let now = now();
        let open = (!self.log.is_open()).then_some(self.next_open);
        let due = open.into_iter().chain(self.link.due()).fold(self.engine.next_timer(now), Time::min);
        due.since(now)
    }

    fn handle_probes(&mut self, ready: &[bool]) {
        if !ready.contains(&true) {
            return;
        }
        for (backend, id, answer) in self.prober.handle_ready(ready) {
            self.engine.handle_probe(backend, id, answer, now(), &mut self.actions);
        }
        self.act();
    }

    fn handle_neighbours(&mut self) {
        for lost in self.neighbours.iter_mut().flat_map(Neighbours::handle_ready) {
            self.engine.handle_lost(lost, now());
        }
    }
}

/// Adds descriptors; gives where they stand.
fn extend<'f>(
    interest: &mut Vec<(BorrowedFd<'f>, PollFlags)>,
    more: impl IntoIterator<Item = (BorrowedFd<'f>, PollFlags)>,
) -> Range<usize> {
    let start = interest.len();
    interest.extend(more);
    start..interest.len()
}

/// Which of these are ready.
fn poll_ready(interest: &[(BorrowedFd<'_>, PollFlags)], timeout: Duration) -> Result<Vec<bool>> {
    let mut fds: Vec<_> = interest.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    let timeout = Timespec::try_from(timeout).context("timeout out of range")?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(rustix::io::Errno::INTR) => Ok(vec![false; interest.len()]),
        Err(error) => Err(error).context("poll failed"),
    }
}
