//! For how long conntrack remembers a TCP connection without traffic: kernel parameters of the network namespace
//! (Documentation/networking/nf_conntrack-sysctl.rst). Each packet gives an entry the timeout of its state, whatever timeout
//! it was made with.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: the parameters are files")]

use std::fs;

use crate::Error;

/// Seconds for which connections are to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Open ones: at least so long; also those of which conntrack believes that something is not acknowledged, or repeated, as it does not
    /// see every segment.
    pub open: u32,
    /// Those closed on one side: at least so long.
    pub half_closed: u32,
    /// Those closed on both sides: at most so long. By default it is two minutes, in which short connections at a rate of
    /// thousands a second fill any table.
    pub ended: u32,
}

impl Timeouts {
    /// Makes conntrack of this namespace remember connections so. What suits already stays.
    ///
    /// # Errors
    /// If a parameter cannot be read or written (there is no conntrack, `/proc/sys` is read-only).
    pub fn apply(&self) -> Result<(), Error> {
        for open in ["established", "unacknowledged", "max_retrans"] {
            change(open, |now| now.max(self.open))?;
        }
        change("fin_wait", |now| now.max(self.half_closed))?;
        change("close_wait", |now| now.max(self.half_closed))?;
        change("time_wait", |now| now.min(self.ended))
    }
}

fn change(state: &str, wanted: impl Fn(u32) -> u32) -> Result<(), Error> {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
    let fail = |error| Error::system("changing conntrack's timeouts", error);
    let text = fs::read_to_string(&path).map_err(fail)?;
    let now = text.trim().parse::<u32>().map_err(|_| Error::Answer("conntrack's timeouts"))?;
    if wanted(now) == now { Ok(()) } else { fs::write(&path, wanted(now).to_string()).map_err(fail) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::conntrack::Conntrack;
    use crate::namespace::in_new;

    fn timeout(state: &str) -> u32 {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// The kernel's own ones for half-closed connections are too short for RFC 5382 REQ-5 (4 minutes).
    #[test]
    fn only_what_does_not_suit_is_changed() {
        in_new(|| {
            let _conntrack = Conntrack::open().unwrap();
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "300").unwrap();
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_fin_wait", "9000").unwrap();
            Timeouts { open: 7440, half_closed: 600, ended: 10 }.apply().unwrap();
            let states =
                ["established", "unacknowledged", "max_retrans", "fin_wait", "close_wait", "time_wait"];
            assert_eq!(states.map(timeout), [7440, 7440, 7440, 9000, 600, 10]);
            Timeouts { open: 1, half_closed: 1, ended: 20 }.apply().unwrap();
            assert_eq!(states.map(timeout), [7440, 7440, 7440, 9000, 600, 10]);
        })
        .unwrap();
    }
}
