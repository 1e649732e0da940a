//! Processes by id, told apart from later ones with the same id.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process: its id and when it started, so that a reused id is not mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Clock ticks since boot when it started.
    started: u64,
}

/// Fields of `/proc/PID/stat`: the state letter, the parent, the number of threads and the start time.
struct Stat {
    state: char,
    parent: u32,
    threads: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may contain anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Process {
    /// The process that has this id now; none if it is dead or a zombie.
    pub fn running(pid: u32) -> Option<Self> {
        let stat = stat(pid)?;
        // A killed process whose other threads are not gone yet still has its files, locks and sockets.
        let dead = matches!(stat.state, 'Z' | 'X') && stat.threads <= 1;
        (!dead).then_some(Self { pid, started: stat.started })
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        Self::running(self.pid) == Some(self)
    }

    /// Whether it is stopped by SIGSTOP.
    pub fn stopped(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.state == 'T')
    }

    /// Its children. Looks through all processes: kernels need not offer `children`.
    pub fn children(self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| stat(*pid).is_some_and(|stat| stat.parent == self.pid);
        pids.filter(ours).filter_map(Self::running).collect()
    }

    /// Sends a signal, unless it is gone.
    pub fn signal(self, signal: Signal) {
        if self.alive() {
            signal_pid(self.pid, signal);
        }
    }

    /// To it, the leader of its process group, and to all others of the group at once: one after the other, stopped ones would be
    /// woken by their parent's death (the group becomes an orphan, POSIX `_exit`).
    pub fn signal_group(self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid as i32).filter(|_| self.alive()) {
            // It may have ended meanwhile, which is as good.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits until it is dead; false if it is not within `limit`.
    pub fn wait_dead(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// Sends a signal without asking who has the id now: for ids that were just looked up.
pub fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // It may have ended meanwhile, which is as good.
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process has this id, zombies included.
pub fn exists(pid: u32) -> bool {
    Pid::from_raw(pid as i32).is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_and_its_death_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::running(child.id()).unwrap();
        let me = Process::running(std::process::id()).unwrap();
        assert!(me.children().contains(&process));
        process.signal(Signal::KILL);
        assert!(process.wait_dead(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(!exists(process.pid));
    }
}
