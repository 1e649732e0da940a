//! When a failure was declared, from the transactionalizer's log.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::daemons::Daemon;
use crate::lab::Lab;
use crate::topology::{Node, SERVICE_PORT};

const DAY: Duration = Duration::from_secs(86_400);

/// Reads what the transactionalizer logs from now on.
pub(super) struct Watch {
    file: File,
    backend: String,
}

impl Watch {
    /// For failures of this backend.
    pub(super) fn start(lab: &Lab, backend: Node) -> Result<Self> {
        let path = lab.log(Daemon::Transactionalizer.name());
        let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        file.seek(SeekFrom::End(0))?;
        let address = SocketAddr::new(lab.settings()?.address(backend.address()), SERVICE_PORT);
        Ok(Self { file, backend: address.to_string() })
    }

    /// The time from `failed` to the first line that declares a failure of the backend or of a connection with it.
    pub(super) fn await_declared(mut self, failed: SystemTime, patience: Duration) -> Result<Declared> {
        let of_day =
            Duration::from_nanos((failed.duration_since(UNIX_EPOCH)?.as_nanos() % DAY.as_nanos()) as u64);
        let end = Instant::now() + patience;
        let mut text = String::new();
        loop {
            self.file.read_to_string(&mut text)?;
            if let Some(line) = text.lines().find(|line| declares(line, &self.backend)) {
                let at = time_of_day(line).with_context(|| format!("no time in {line:?}"))?;
                let took = (at + DAY).saturating_sub(of_day).checked_sub(DAY).unwrap_or_default();
                return Ok(Declared { took, noticed: noticed(line).unwrap_or_default() });
            }
            ensure!(Instant::now() < end, "no failure of {} was declared within {patience:?}", self.backend);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How long a failure took to be declared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    /// From the failure to its declaration.
    pub(super) took: Duration,
    /// Of that, from the evidence, as the logger has it (a held FIN), to the declaration.
    pub(super) noticed: Duration,
}

/// `… reported after 700 us`, `… reported 700 us after the evidence`.
fn noticed(line: &str) -> Option<Duration> {
    let (_, after) = line.rsplit_once(" reported ")?;
    let number = after.split(' ').find_map(|word| word.parse().ok())?;
    Some(Duration::from_micros(number))
}

/// Unfinished lines have no time yet.
fn declares(line: &str, backend: &str) -> bool {
    line.contains(" WARN ")
        && (line.contains(&format!("backend {backend} is down")) || line.contains(&format!(": {backend} ")))
}

/// `2026-01-31T23:59:59.123456Z …`: the time since midnight.
fn time_of_day(line: &str) -> Option<Duration> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let mut parts = time.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds = parts.next()?.parse::<f64>().ok()?;
    Some(Duration::from_secs(hours * 3600 + minutes * 60) + Duration::try_from_secs_f64(seconds).ok()?)
}

/// Lines of the transactionalizer's log that declare a failure, for messages.
pub(super) fn failures(lab: &Lab) -> Result<Vec<String>> {
    let text = fs::read_to_string(lab.log(Daemon::Transactionalizer.name()))?;
    Ok(text.lines().filter(|line| line.contains(" WARN ")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-01-31T01:02:03.500000Z  WARN transactionalizer::shell::story: backend 10.77.3.2:8080 is down: it answers no probe";

    #[test]
    fn a_declaration_is_recognised_with_its_time() {
        assert!(declares(LINE, "10.77.3.2:8080") && !declares(LINE, "10.77.4.2:8080"));
        assert!(declares(
            "t  WARN s: 10.77.1.2:40000: 10.77.3.2:8080 closed the connection",
            "10.77.3.2:8080"
        ));
        assert_eq!(time_of_day(LINE), Some(Duration::from_millis(3_723_500)));
        assert_eq!(time_of_day("nonsense"), None);
    }

    #[test]
    fn the_time_since_the_evidence_is_read() {
        let all = "backend 10.77.3.2:8080 is down: it is unreachable; 3 connections reported 700 us after the evidence";
        let one = "10.77.1.2:40000: 10.77.3.2:8080 closed; 0 bytes unacknowledged, reported after 1500 us, not recoverable";
        assert_eq!(noticed(all), Some(Duration::from_micros(700)));
        assert_eq!(noticed(one), Some(Duration::from_micros(1500)));
        assert_eq!(noticed(LINE), None);
    }
}
