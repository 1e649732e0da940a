//! Samples and the rows made of them.

#![deny(clippy::disallowed_methods)]

use anyhow::Result;
use serde::Serialize;

/// One figure of the outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    #[serde(rename = "row")]
    pub what: String,
    /// The median; none if it could not be measured.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// The lowest sample.
    pub low: Option<f64>,
    /// The highest sample.
    pub high: Option<f64>,
    /// The bound that must be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub must: Option<f64>,
    /// The bound that is aimed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim: Option<f64>,
    /// Whether `must` is kept; also false when it could not be measured.
    pub ok: bool,
    /// Why samples are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) must: f64,
    pub(super) aim: f64,
    /// At least; otherwise at most.
    pub(super) least: bool,
}

impl Bound {
    fn kept(self, value: f64) -> bool {
        if self.least { value >= self.must } else { value <= self.must }
    }
}

/// Repeated measurements of one thing, in order; failed ones keep their place.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    values: Vec<Option<f64>>,
    reason: Option<String>,
}

impl Samples {
    pub(super) fn push(&mut self, sample: Result<f64>) {
        match sample {
            Ok(value) => self.values.push(Some(value)),
            Err(error) => {
                self.values.push(None);
                self.reason = Some(format!("{error:#}"));
            }
        }
    }

    /// Round by round: what slowed the machine down slowed both.
    pub(super) fn ratio(&self, to: &Self) -> Self {
        self.paired(to, |of, to| of / to)
    }

    /// Also round by round.
    pub(super) fn minus(&self, other: &Self) -> Self {
        self.paired(other, |of, other| of - other)
    }

    fn paired(&self, other: &Self, join: impl Fn(f64, f64) -> f64) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        let values = pairs.map(|(of, other)| Some(join((*of)?, (*other)?))).collect();
        Self { values, reason: self.reason.clone().or_else(|| other.reason.clone()) }
    }

    /// The middle of the samples that could be taken; between the two in the middle of an even number.
    pub(super) fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(*sorted.get(sorted.len() / 2 - 1)?, upper))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.values.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Like [`Samples::row`], of the sample that this share of them does not exceed.
    pub(super) fn quantile_row(
        &self,
        what: &str,
        unit: &'static str,
        share: f64,
        bound: Option<Bound>,
    ) -> Row {
        let sorted = self.sorted();
        let place = (share * sorted.len() as f64).ceil() as usize;
        let value = sorted.get(place.saturating_sub(1)).copied();
        let ok = value.is_some_and(|value| bound.is_none_or(|bound| bound.kept(value)));
        Row { value, ok: ok && self.reason.is_none(), ..self.row(what, unit, bound) }
    }

    pub(super) fn row(&self, what: &str, unit: &'static str, bound: Option<Bound>) -> Row {
        let (sorted, value) = (self.sorted(), self.median());
        Row {
            what: what.to_owned(),
            value,
            unit,
            low: sorted.first().copied(),
            high: sorted.last().copied(),
            must: bound.map(|bound| bound.must),
            aim: bound.map(|bound| bound.aim),
            ok: self.reason.is_none()
                && value.is_some_and(|value| bound.is_none_or(|bound| bound.kept(value))),
            reason: self.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        for value in values {
            samples.push(Ok(*value));
        }
        samples
    }

    #[test]
    fn the_median_and_its_bound() {
        let least = Bound { must: 2.0, aim: 4.0, least: true };
        let row = samples(&[3.0, 1.0, 2.0]).row("x", "y", Some(least));
        assert_eq!((row.value, row.low, row.high, row.ok), (Some(2.0), Some(1.0), Some(3.0), true));
        let most = Bound { must: 1.5, aim: 1.0, least: false };
        assert!(!samples(&[3.0, 1.0, 2.0]).row("x", "y", Some(most)).ok);
    }

    #[test]
    fn a_quantile_is_a_sample_and_has_its_own_bound() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let most = |must| Some(Bound { must, aim: 1.0, least: false });
        let row = samples(&hundred).quantile_row("x", "ms", 0.99, most(99.0));
        assert_eq!((row.value, row.high, row.ok), (Some(99.0), Some(100.0), true));
        assert!(!samples(&hundred).quantile_row("x", "ms", 1.0, most(99.0)).ok);
        assert_eq!(samples(&[]).quantile_row("x", "ms", 0.5, None).value, None);
    }

    #[test]
    fn an_even_number_has_its_median_between_two() {
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(samples(&[]).median(), None);
    }

    #[test]
    fn differences_are_taken_round_by_round_too() {
        let row = samples(&[3.0, 5.0, 9.0]).minus(&samples(&[1.0, 4.0, 5.0])).row("x", "ms", None);
        assert_eq!((row.value, row.low, row.high), (Some(2.0), Some(1.0), Some(4.0)));
    }

    #[test]
    fn ratios_are_taken_round_by_round_and_failures_are_not_hidden() {
        let mut slow = samples(&[1.0]);
        slow.push(Err(anyhow!("broken")));
        let row = slow.ratio(&samples(&[2.0, 4.0])).row("x", "ratio", None);
        assert_eq!((row.value, row.ok, row.reason.as_deref()), (Some(0.5), false, Some("broken")));
        let mut nothing = Samples::default();
        nothing.push(Err(anyhow!("broken")));
        assert_eq!(nothing.row("x", "y", None).value, None);
    }
}
