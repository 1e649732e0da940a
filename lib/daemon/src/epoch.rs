//! Epochs of recovery managers: the latest one counts, whoever else still believes to be in charge. Written down, so that a
//! restart does not forget it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A manager's clock may be ahead of ours by so much, microseconds. A later epoch is not believed: it would shut out everybody.
const AHEAD_US: u64 = 24 * 3600 * 1_000_000;

/// The latest epoch that is known here.
#[derive(Debug)]
pub struct Epoch {
    file: PathBuf,
    latest: u64,
}

impl Epoch {
    /// What is written in `file`; 0 if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no number.
    pub fn load(file: PathBuf) -> Result<Self> {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => "0".to_owned(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        let latest = text.trim().parse().with_context(|| {
            format!("{}: not an epoch: remove it if no other manager runs", file.display())
        })?;
        Ok(Self { file, latest })
    }

    /// A new one for a manager that starts now: later than all that are known here, and, by the clock (microseconds since 1970), than those
    /// of other hosts.
    pub fn begin(&mut self, clock_us: u64) -> Result<u64> {
        self.latest = clock_us.max(self.latest.saturating_add(1));
        self.write()?;
        Ok(self.latest)
    }

    /// Whether a manager of that epoch counts: `Ok(true)` if it is later than all before.
    ///
    /// # Errors
    /// The epoch that counts instead.
    pub fn admit(&mut self, epoch: u64, clock_us: u64) -> Result<bool, u64> {
        if epoch < self.latest || epoch > clock_us.saturating_add(AHEAD_US) {
            return Err(self.latest);
        }
        let later = epoch > self.latest;
        self.latest = epoch;
        if let Err(error) = if later { self.write() } else { Ok(()) } {
            tracing::warn!("a restart will forget which recovery manager counts: {error:#}");
        }
        Ok(later)
    }

    /// The latest one.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    fn write(&self) -> Result<()> {
        let new = self.file.with_extension("epoch.new");
        fs::write(&new, format!("{}\n", self.latest))
            .and_then(|()| fs::rename(&new, &self.file))
            .with_context(|| format!("writing {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_counts_also_after_a_restart() {
        let file = std::env::temp_dir().join(format!("resplice-epoch-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let mut epoch = Epoch::load(file.clone()).unwrap();
        assert_eq!(epoch.admit(5, 100), Ok(true));
        assert_eq!(epoch.admit(5, 100), Ok(false));
        assert_eq!(epoch.admit(4, 100), Err(5));
        assert_eq!(epoch.admit(u64::MAX, 100), Err(5));
        let mut epoch = Epoch::load(file.clone()).unwrap();
        assert_eq!((epoch.latest(), epoch.admit(4, 100)), (5, Err(5)));
        // A clock that was set back does not bring an earlier epoch.
        assert_eq!((epoch.begin(3).unwrap(), epoch.begin(1000).unwrap()), (6, 1000));
        fs::write(&file, "garbage").unwrap();
        assert!(Epoch::load(file.clone()).unwrap_err().to_string().contains("not an epoch"));
        fs::remove_file(file).unwrap();
    }
}
