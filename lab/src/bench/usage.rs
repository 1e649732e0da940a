//! Processor time and memory, from `/proc`.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// `_SC_CLK_TCK`: the kernel reports in these units on every architecture that Linux has.
const TICKS_PER_S: f64 = 100.0;

/// Seconds that these processors have been busy since boot, whoever kept them so.
pub(super) fn machine_cpu_s(processors: &[usize]) -> Result<f64> {
    busy_s(&fs::read_to_string("/proc/stat")?, processors)
}

/// Processor seconds that these processes, all their threads, have used.
pub(super) fn cpu_s(processes: &[Process]) -> Result<f64> {
    processes.iter().map(|process| used_s(&read(*process, "stat")?)).sum()
}

/// Resident memory of these processes, bytes.
pub(super) fn resident(processes: &[Process]) -> Result<f64> {
    processes.iter().map(|process| resident_bytes(&read(*process, "status")?)).sum()
}

fn read(process: Process, file: &str) -> Result<String> {
    ensure!(process.alive(), "process {} has ended", process.pid);
    Ok(fs::read_to_string(format!("/proc/{}/{file}", process.pid))?)
}

/// All but idle, waiting for disks, and stolen by the hypervisor (columns 4, 5 and 8); guests are in user already.
fn busy_s(stat: &str, processors: &[usize]) -> Result<f64> {
    let busy = |processor: &usize| {
        let name = format!("cpu{processor}");
        let line = stat.lines().find(|line| line.split(' ').next() == Some(&name));
        let line = line.with_context(|| format!("/proc/stat has no {name}"))?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        let counted = [0, 1, 2, 5, 6].into_iter().filter_map(|column| ticks.get(column));
        Ok(counted.sum::<f64>() / TICKS_PER_S)
    };
    processors.iter().map(busy).sum()
}

/// Fields 14 and 15: in user and in kernel mode. The program's name, in parentheses, may contain anything.
fn used_s(stat: &str) -> Result<f64> {
    let (_, fields) = stat.rsplit_once(')').context("no program name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_S)
}

fn resident_bytes(status: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_counts_only_the_asked_processors_and_not_their_idling() {
        let stat = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 100 20 30 9999 9999 40 10 9999 7 0\ncpu1 1 0 0 0 0 0 0 0 0 0\n\
                    cpu10 5000 0 0 0 0 0 0 0 0 0\nintr 1\n";
        assert!((busy_s(stat, &[0, 1]).unwrap() - 2.01).abs() < 1e-9);
        assert!(busy_s(stat, &[2]).is_err());
    }

    #[test]
    fn a_process_counts_both_modes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 999 999 20 0 1 0 1 1 1";
        assert!((used_s(stat).unwrap() - 2.0).abs() < 1e-9);
        assert!(used_s("nonsense").is_err());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert!((resident_bytes("Name:\tx\nVmRSS:\t     10 kB\n").unwrap() - 10240.0).abs() < 1e-9);
        assert!(resident_bytes("Name:\tx\n").is_err());
    }
}
