//! For how long conntrack remembers a TCP connection without traffic: kernel parameters of the network namespace
//! (Documentation/networking/nf_conntrack-sysctl.rst). Each packet gives an entry the timeout of its state, whatever timeout
//! it was made with.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: the parameters are files")]

use std::fs;

use crate::Error;

/// Makes conntrack of this namespace remember open connections for at least `open` seconds and those closed on one side
/// for at least `half_closed`. What is longer already stays.
///
/// # Errors
/// If a parameter cannot be read or written (there is no conntrack, `/proc/sys` is read-only).
pub fn raise(open: u32, half_closed: u32) -> Result<(), Error> {
    raise_one("established", open)?;
    raise_one("fin_wait", half_closed)?;
    raise_one("close_wait", half_closed)
}

fn raise_one(state: &str, seconds: u32) -> Result<(), Error> {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
    let fail = |error| Error::system("raising conntrack's timeouts", error);
    let now = fs::read_to_string(&path).map_err(fail)?;
    match now.trim().parse::<u32>() {
        Ok(now) if now >= seconds => Ok(()),
        _ => fs::write(&path, seconds.to_string()).map_err(fail),
    }
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
    fn short_timeouts_are_raised_and_long_ones_stay() {
        in_new(|| {
            let _conntrack = Conntrack::open().unwrap();
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "300").unwrap();
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_fin_wait", "9000").unwrap();
            raise(7440, 600).unwrap();
            assert_eq!(["established", "fin_wait", "close_wait"].map(timeout), [7440, 9000, 600]);
        })
        .unwrap();
    }
}
