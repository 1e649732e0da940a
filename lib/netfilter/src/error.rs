use std::io;

/// Why the kernel was not asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A syscall or a netlink request failed.
    #[error("{what}: {source}{}", remedy(source))]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The conntrack entry to be created exists, or its translated tuple is taken.
    #[error("a conntrack entry with this tuple exists; delete it first")]
    Exists,
    /// Another process, or another socket of this one, owns the queue.
    #[error("queue {0} belongs to another process; stop that one or choose another queue number")]
    QueueTaken(u16),
    /// What is addressed (table, chain, set) does not exist.
    #[error("{0}: no such table, chain or set; install the rules first (`nft-rules install`)")]
    Missing(&'static str),
    /// Addresses of both families where one is needed.
    #[error("{0}: IPv4 and IPv6 addresses mixed")]
    MixedFamilies(&'static str),
    /// A packet is no IP packet or exceeds a netlink attribute (65,531 bytes).
    #[error("{0}: not an IP packet of at most 65531 bytes")]
    NotSendable(&'static str),
    /// The packet exceeds the MTU of its route.
    #[error("packet exceeds the route's MTU")]
    TooLong,
    /// No buffer space now; the packet was not sent.
    #[error("no buffer space, packet not sent")]
    NoRoom,
    /// The kernel's answer was missing or not understood.
    #[error("{0}: unexpected answer from the kernel")]
    Answer(&'static str),
}

impl Error {
    pub(crate) fn system(what: &'static str, source: io::Error) -> Self {
        Self::System { what, source }
    }

    /// `errno` is positive.
    pub(crate) fn errno(what: &'static str, errno: i32) -> Self {
        Self::system(what, io::Error::from_raw_os_error(errno))
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (needs CAP_NET_ADMIN and CAP_NET_RAW)",
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => " (the kernel lacks this part of netfilter)",
        _ => "",
    }
}
