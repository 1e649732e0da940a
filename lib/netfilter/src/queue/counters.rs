//! `/proc/net/netfilter/nfnetlink_queue`: the kernel's own counters of each queue.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it reads what the kernel shows")]

use std::io;

/// One line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelCounters {
    /// The queue's number.
    pub number: u16,
    /// Netlink port of the socket that owns it.
    pub port: u32,
    /// Packets that wait for a verdict.
    pub waiting: u64,
    /// Packets dropped because the queue was full.
    pub queue_dropped: u64,
    /// Packets dropped because the socket's receive buffer was full.
    pub user_dropped: u64,
}

/// The kernel's counters of queue `number` in the calling thread's network namespace; `None`: nobody has bound it.
pub fn queue_counters(number: u16) -> io::Result<Option<KernelCounters>> {
    // Not `/proc/net`, which is the main thread's namespace.
    let text = std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue")?;
    Ok(parse_counters(&text).find(|counters| counters.number == number))
}

/// The cores of this host, whatever this process may use of them: the rules and the daemon must agree on it.
pub fn online_cores() -> u16 {
    let cores = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    count_cores(&cores).max(1)
}

/// Ranges like `0-3,8`.
fn count_cores(ranges: &str) -> u16 {
    let length = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    ranges.trim().split(',').filter_map(length).fold(0, u16::saturating_add)
}

pub(super) fn is_bound(number: u16) -> bool {
    matches!(queue_counters(number), Ok(Some(_)))
}

/// The lines of `/proc/net/netfilter/nfnetlink_queue` that have the known form: number, port, waiting, copy
/// mode, copy range, dropped by the queue, dropped for the user, last id, 1.
pub fn parse_counters(text: &str) -> impl Iterator<Item = KernelCounters> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        Some(KernelCounters {
            number: fields.next()?.parse().ok()?,
            port: fields.next()?.parse().ok()?,
            waiting: fields.next()?.parse().ok()?,
            queue_dropped: fields.nth(2)?.parse().ok()?,
            user_dropped: fields.next()?.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{count_cores, parse_counters};

    #[test]
    fn ranges_of_cores_are_added_up() {
        let counts = ["0\n", "0-3,8", "0-1,x,5-4,7", "", "0-65535"].map(count_cores);
        assert_eq!(counts, [1, 5, 3, 0, 0]);
    }

    #[test]
    fn the_kernels_lines_are_read_and_others_skipped() {
        let text = "    5  12345     3 2 65531     7     9      100  1\nnonsense\n   10 4294967295 0 2 65531 0 0 0 1\n";
        let lines: Vec<_> = parse_counters(text).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[0].waiting), (5, 3));
        assert_eq!((lines[0].queue_dropped, lines[0].user_dropped), (7, 9));
    }
}
