//! Response times: generated and recorded.

use std::f64::consts::TAU;

/// Reproducible pseudo-random numbers (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 up to, not including, 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let normal = (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (TAU * self.unit()).cos();
        median * (sigma * normal).exp()
    }
}

/// Where response times come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Median 20 ms, sigma 0.5.
    LogNormal,
    /// Nine of ten take about 5 ms, the tenth 150 ms: a cache.
    Bimodal,
    /// Pareto, at least 10 ms, exponent 1.5, at most 3 s.
    HeavyTail,
    /// Median 10 ms, eight times that in every second period of 20 s.
    LoadSteps,
    /// Median 10 ms, and every 5 s on average everything stands still for 300 ms: garbage collection.
    Pauses,
    /// nginx in the lab on two busy cores, see `recorded.txt`.
    Recorded,
    /// A PHP application in the lab on two busy cores, see `recorded_php.txt`.
    RecordedPhp,
}

const STEP_MS: f64 = 20_000.0;
const PAUSE_EVERY_MS: f64 = 5000.0;
const PAUSE_MS: f64 = 300.0;
const RECORDED: &str = include_str!("recorded.txt");
const RECORDED_PHP: &str = include_str!("recorded_php.txt");

impl Trace {
    pub(crate) const ALL: [Self; 7] = [
        Self::LogNormal,
        Self::Bimodal,
        Self::HeavyTail,
        Self::LoadSteps,
        Self::Pauses,
        Self::Recorded,
        Self::RecordedPhp,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LogNormal => "log-normal",
            Self::Bimodal => "bimodal",
            Self::HeavyTail => "heavy tail",
            Self::LoadSteps => "load steps",
            Self::Pauses => "pauses",
            Self::Recorded => "recorded",
            Self::RecordedPhp => "recorded, PHP",
        }
    }
}

/// One run through a trace.
pub(crate) struct Latencies {
    trace: Trace,
    recorded: Vec<f64>,
    /// When the next pause begins, ms.
    pause: f64,
}

impl Latencies {
    pub(crate) fn new(trace: Trace) -> Self {
        let file = if trace == Trace::RecordedPhp { RECORDED_PHP } else { RECORDED };
        let numbers = file.lines().filter(|line| !line.starts_with('#'));
        let recorded = numbers.filter_map(|line| Some(line.trim().parse::<f64>().ok()? / 1000.0)).collect();
        Self { trace, recorded, pause: PAUSE_EVERY_MS }
    }

    /// How long a request that arrives at `now` takes, ms.
    pub(crate) fn sample(&mut self, now: f64, chance: &mut Chance) -> f64 {
        match self.trace {
            Trace::LogNormal => chance.log_normal(20.0, 0.5),
            Trace::Bimodal if chance.unit() < 0.9 => chance.log_normal(5.0, 0.3),
            Trace::Bimodal => chance.log_normal(150.0, 0.2),
            Trace::HeavyTail => (10.0 * (1.0 - chance.unit()).powf(-1.0 / 1.5)).min(3000.0),
            Trace::LoadSteps => {
                let busy = (now / STEP_MS) as u64 % 2 == 1;
                chance.log_normal(10.0, 0.4) * if busy { 8.0 } else { 1.0 }
            }
            Trace::Pauses => self.paused(now, chance.log_normal(10.0, 0.4), chance),
            Trace::Recorded | Trace::RecordedPhp => {
                let place = (chance.unit() * self.recorded.len() as f64) as usize;
                self.recorded.get(place).copied().unwrap_or(1.0)
            }
        }
    }

    /// What would end within a pause ends behind it.
    fn paused(&mut self, now: f64, latency: f64, chance: &mut Chance) -> f64 {
        while self.pause + PAUSE_MS < now {
            self.pause += PAUSE_MS + chance.exponential(PAUSE_EVERY_MS);
        }
        if now + latency > self.pause {
            (self.pause - now).max(0.0) + PAUSE_MS + latency / 2.0
        } else {
            latency
        }
    }
}
