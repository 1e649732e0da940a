//! Moving average and mean deviation of a duration (RFC 6298 §2's estimator, paper §3.5).

use std::time::Duration;

/// Samples before an estimate is trusted.
const TRUSTED_AFTER: u32 = 8;

/// Exponential moving averages of a duration and of its deviation from the mean.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MovingAverage {
    mean: f64,
    deviation: f64,
    /// The greatest sample, decaying slowly: latencies have heavier tails than `mean + 4 deviations` covers.
    peak: f64,
    samples: u32,
}

impl MovingAverage {
    /// Nothing measured yet.
    pub const NONE: Self = Self { mean: 0.0, deviation: 0.0, peak: 0.0, samples: 0 };

    /// Takes in one measurement.
    pub fn add(&mut self, sample: Duration) {
        let sample = sample.as_secs_f64();
        if self.samples == 0 {
            self.mean = sample;
            self.deviation = sample / 2.0;
        } else {
            self.deviation += ((self.mean - sample).abs() - self.deviation) / 4.0;
            self.mean += (sample - self.mean) / 8.0;
        }
        self.peak = sample.max(self.peak * 0.999);
        self.samples = self.samples.saturating_add(1);
    }

    /// Enough samples have been seen.
    pub fn known(&self) -> bool {
        self.samples >= TRUSTED_AFTER
    }

    /// The mean; zero without samples.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.mean)
    }

    /// Mean plus four deviations, at least twice the decaying peak, within the limits; the ceiling until enough
    /// samples have been seen.
    pub fn timeout(&self, floor: Duration, ceiling: Duration) -> Duration {
        if !self.known() {
            return ceiling;
        }
        let seconds = (self.mean + 4.0 * self.deviation).max(2.0 * self.peak);
        Duration::try_from_secs_f64(seconds).unwrap_or(ceiling).min(ceiling).max(floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_millis(200);
    const CEILING: Duration = Duration::from_secs(5);

    #[test]
    fn an_unknown_kind_has_the_ceiling() {
        let mut average = MovingAverage::default();
        assert_eq!(average.timeout(FLOOR, CEILING), CEILING);
        (1..TRUSTED_AFTER).for_each(|_| average.add(Duration::from_millis(1)));
        assert_eq!(average.timeout(FLOOR, CEILING), CEILING);
        average.add(Duration::from_millis(1));
        assert_eq!(average.timeout(FLOOR, CEILING), FLOOR);
    }

    #[test]
    fn it_follows_a_slower_service_and_comes_back() {
        let mut average = MovingAverage::default();
        (0..200).for_each(|_| average.add(Duration::from_millis(300)));
        let slow = average.timeout(FLOOR, CEILING);
        assert!(slow >= Duration::from_millis(300) && slow <= Duration::from_millis(650), "{slow:?}");
        (0..4000).for_each(|_| average.add(Duration::from_millis(2)));
        assert_eq!(average.timeout(FLOOR, CEILING), FLOOR);
        assert!(average.mean() < Duration::from_millis(3));
    }

    #[test]
    fn absurd_samples_stay_within_the_limits() {
        let mut average = MovingAverage::default();
        (0..20).for_each(|_| average.add(Duration::MAX));
        assert_eq!(average.timeout(FLOOR, CEILING), CEILING);
    }
}
