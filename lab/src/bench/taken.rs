//! What has been measured so far, kept in a file so that an interrupted run can go on.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::rows::Samples;

/// One number of a benchmark, and which of its measurements yields it.
pub(super) trait Figure: Copy + Ord + Debug + Serialize + DeserializeOwned {
    /// Who is measured.
    type Contender: Copy + Eq + Serialize + DeserializeOwned;
    /// A run of a load.
    type Measure: Copy + Eq + Serialize + DeserializeOwned;
    /// Which one yields it.
    fn measure(self) -> Self::Measure;
}

/// What a measure yielded.
pub(super) type Figures<F> = BTreeMap<F, f64>;

/// One measurement.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct Taken<F: Figure> {
    round: usize,
    contender: F::Contender,
    measure: F::Measure,
    /// The figures, or why there are none.
    result: Result<Figures<F>, String>,
}

/// All measurements of a run.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(super) struct Record<F: Figure> {
    /// What else must be the same for two runs to be one: version and lengths.
    run: String,
    taken: Vec<Taken<F>>,
}

/// A [`Record`] and its file.
pub(super) struct Log<F: Figure> {
    file: PathBuf,
    record: Record<F>,
}

impl<F: Figure> Log<F> {
    /// Goes on with what the file has, if `resume` and if it is of the same `run`; otherwise begins anew.
    pub(super) fn open(file: &Path, run: &str, resume: bool) -> Self {
        let kept = || serde_json::from_slice::<Record<F>>(&fs::read(file).ok()?).ok();
        let kept = resume.then(kept).flatten().filter(|record| record.run == run);
        let record = kept.unwrap_or_else(|| Record { run: run.to_owned(), taken: Vec::new() });
        Self { file: file.to_owned(), record }
    }

    /// How many measurements there are.
    fn len(&self) -> usize {
        self.record.taken.len()
    }

    /// Measures in turn what is not there yet.
    pub(super) fn fill(
        &mut self,
        steps: impl Iterator<Item = (usize, F::Measure, F::Contender)>,
        progress: &mut dyn FnMut(&str),
        mut measure: impl FnMut(&Self, usize, F::Measure, F::Contender) -> Result<Figures<F>>,
    ) -> Result<()>
    where
        F::Contender: Display,
    {
        let steps: Vec<_> = steps.collect();
        let total = steps.len();
        if self.len() > 0 {
            progress(&format!("{} of {total} measurements are there already", self.len()));
        }
        for (number, (round, what, contender)) in (1..).zip(steps) {
            if self.has(round, contender, what) {
                continue;
            }
            let result = measure(self, round, what, contender);
            progress(&format!("{number}/{total} round {round}, {contender}: {}", told(&result)));
            self.add(round, contender, what, result)?;
        }
        Ok(())
    }

    /// Whether this was measured.
    pub(super) fn has(&self, round: usize, contender: F::Contender, measure: F::Measure) -> bool {
        self.record.find(round, contender, |taken| taken.measure == measure).is_some()
    }

    /// A figure of one round, if it could be measured.
    pub(super) fn figure(&self, round: usize, contender: F::Contender, figure: F) -> Option<f64> {
        self.record.figure(round, contender, figure)?.ok()
    }

    /// Adds a measurement and saves all.
    pub(super) fn add(
        &mut self,
        round: usize,
        contender: F::Contender,
        measure: F::Measure,
        result: Result<Figures<F>>,
    ) -> Result<()> {
        let result = result.map_err(|error| format!("{error:#}"));
        self.record.taken.push(Taken { round, contender, measure, result });
        let new = self.file.with_extension("new");
        fs::write(&new, serde_json::to_vec(&self.record)?)?;
        fs::rename(&new, &self.file).with_context(|| format!("writing {}", self.file.display()))
    }

    /// All of it; the file is no longer needed.
    pub(super) fn finish(self) -> Record<F> {
        // Left behind, it would only be resumed into the same figures.
        let _ = fs::remove_file(&self.file);
        self.record
    }
}

impl<F: Figure> Record<F> {
    fn find(
        &self,
        round: usize,
        contender: F::Contender,
        wanted: impl Fn(&Taken<F>) -> bool,
    ) -> Option<&Taken<F>> {
        let mut all = self.taken.iter();
        all.find(|taken| taken.round == round && taken.contender == contender && wanted(taken))
    }

    fn figure(&self, round: usize, contender: F::Contender, figure: F) -> Option<Result<f64>> {
        let taken = self.find(round, contender, |taken| taken.measure == figure.measure())?;
        Some(match &taken.result {
            Ok(figures) => figures.get(&figure).copied().context("the measure did not yield it"),
            Err(reason) => Err(anyhow!("{reason}")),
        })
    }

    /// A contender's figure in each round, the rounds in order; `None` if nobody asked for it.
    pub(super) fn samples(&self, contender: F::Contender, figure: F) -> Option<Samples> {
        let rounds = self.taken.iter().map(|taken| taken.round).max()?;
        let mut taken = (1..=rounds).filter_map(|round| self.figure(round, contender, figure)).peekable();
        taken.peek()?;
        let mut samples = Samples::default();
        taken.for_each(|sample| samples.push(sample));
        Some(samples)
    }
}

/// The figures in short, or the reason why there are none.
fn told<F: Figure>(result: &Result<Figures<F>>) -> String {
    match result {
        Ok(figures) => {
            let figures = figures.iter().map(|(figure, value)| format!("{figure:?} {value:.3}"));
            figures.collect::<Vec<_>>().join(", ")
        }
        Err(error) => format!("failed: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    enum Number {
        Bulk,
        Idle,
    }

    impl Figure for Number {
        type Contender = char;
        type Measure = u8;
        fn measure(self) -> u8 {
            self as u8
        }
    }

    type Log = super::Log<Number>;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("lab-bench-{}-{name}", std::process::id()))
    }

    #[test]
    fn an_interrupted_run_goes_on_and_another_one_does_not() {
        let file = file("resume");
        let mut log = Log::open(&file, "run", false);
        log.add(1, 'k', 0, Ok(Figures::from([(Number::Bulk, 5.0)]))).unwrap();
        let resumed = Log::open(&file, "run", true);
        assert!(resumed.has(1, 'k', 0));
        assert!(!resumed.has(2, 'k', 0));
        assert_eq!(resumed.figure(1, 'k', Number::Bulk), Some(5.0));
        assert_eq!(Log::open(&file, "another", true).len(), 0);
        assert_eq!(Log::open(&file, "run", false).len(), 0);
        resumed.finish();
        assert!(!file.exists());
    }

    #[test]
    fn a_failed_measurement_keeps_its_place_and_reason() {
        let file = file("failed");
        let mut log = Log::open(&file, "run", false);
        log.add(1, 'n', 0, Err(anyhow!("not installed"))).unwrap();
        log.add(2, 'n', 0, Ok(Figures::from([(Number::Bulk, 5.0)]))).unwrap();
        let record = log.finish();
        let row = record.samples('n', Number::Bulk).unwrap().row("x", "MB/s", None);
        assert_eq!((row.value, row.ok, row.reason.as_deref()), (Some(5.0), false, Some("not installed")));
        assert!(record.samples('n', Number::Idle).is_none());
    }
}
