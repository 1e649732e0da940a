//! A bar with an estimate.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::record::{Fate, Record};
use crate::settings::Front;

/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);
const WIDTH: usize = 30;

/// How far a run is.
pub(super) struct Progress<'a> {
    tell: &'a mut dyn FnMut(&str),
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
    before: usize,
    done: usize,
    left: usize,
    counts: Counts,
}

/// What resplice's clients met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    wrong: usize,
    miscounted: usize,
    hung: usize,
    cut: usize,
    broken: usize,
}

impl<'a> Progress<'a> {
    pub(super) fn new(before: &[Record], left: usize, tell: &'a mut dyn FnMut(&str)) -> Self {
        let mut counts = Counts::default();
        for record in before {
            counts.add(record);
        }
        Self {
            tell,
            terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
            shown: None,
            before: before.len(),
            done: 0,
            left,
            counts,
        }
    }

    /// One more case.
    pub(super) fn add(&mut self, record: &Record) {
        self.done += 1;
        self.counts.add(record);
        let last = self.done == self.left;
        if self.terminal {
            // A bar that cannot be drawn does not stop the run.
            let _ = write!(std::io::stderr(), "\r{}{}", self.bar(), if last { "\n" } else { "\x1b[K" });
        } else if last || self.shown.is_none_or(|shown| shown.elapsed() > EVERY) {
            self.shown = Some(Instant::now());
            let bar = self.bar();
            (self.tell)(&bar);
        }
    }

    /// A line of its own.
    pub(super) fn say(&mut self, what: &str) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        (self.tell)(what);
    }

    fn bar(&self) -> String {
        let (seconds, all) = (self.started.elapsed().as_secs_f64(), self.before + self.left);
        let (now, rate) = (self.before + self.done, self.done as f64 / seconds.max(0.001));
        let minutes = (self.left - self.done) as f64 / rate.max(0.001) / 60.0;
        let full = now * WIDTH / all.max(1);
        let Counts { wrong, miscounted, hung, cut, broken } = self.counts;
        format!(
            "[{}{}] {now}/{all} cases, {rate:.1}/s, {minutes:.0} min left; wrong bytes {wrong}, wrong updates {miscounted}, \
             hangs {hung}, needless resets {cut}, not run {broken}",
            "#".repeat(full),
            ".".repeat(WIDTH - full.min(WIDTH))
        )
    }
}

impl Counts {
    fn add(&mut self, record: &Record) {
        if record.front != Front::Resplice {
            return;
        }
        self.broken += usize::from(record.outcome.is_err());
        for transfer in record.transfers() {
            self.miscounted += usize::from(!transfer.miscounted.is_empty());
            match transfer.fate {
                Fate::Wrong(_) => self.wrong += 1,
                Fate::Hung(_) => self.hung += 1,
                Fate::Reset { recoverable: true, .. } | Fate::Refused(_) => self.cut += 1,
                Fate::Right | Fate::OtherChunks | Fate::Reset { .. } => {}
            }
        }
    }
}
