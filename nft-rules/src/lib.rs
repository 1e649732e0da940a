//! The nft rulesets of the roles, as typed values.
//!
//! * [`proxy`], [`logger`]: what each role wants, and how it reads as nft text;
//! * [`install`]: putting rules in (one transaction, no table is ever torn down), taking them out;
//! * [`check`]: whether what is installed is what is wanted, and whether the kernel can do it.
//!
//! Packets reach a daemon through one chain for each of its queues ([`queue_chain`]). Where nft has a native `queue`
//! expression it is text like the rest; elsewhere the chain stays empty in the text and [`netfilter::target`] fills it. The
//! chains that call them, and that all rules go to, drop what a queue's chain lets through: no bypass.

pub mod check;
mod differences;
mod error;
pub mod install;
pub mod logger;
mod network;
mod nft;
pub mod placement;
pub mod proxy;
mod text;

pub use error::Error;
pub use logger::LoggerRules;
pub use proxy::{ProxyRules, proxy_queues};

use std::net::SocketAddr;
use std::ops::Range;

use netfilter::Family;

/// Conntrack mark of entries that are splices.
pub const SPLICED_MARK: u32 = 0x5e51_0001;
/// Conntrack mark of entries that no packet uses: connections that `nfq-splice` translates itself, for the next daemon.
pub const PARKED_MARK: u32 = 0x5e51_0004;
/// Mark of packets that `nfq-splice` sends by its raw socket; they are not tracked.
pub const RAW_MARK: u32 = 0x5e51_0002;
/// Packet mark of what is queued before conntrack: only such packets may be rewritten and accepted.
pub const BEFORE_CONNTRACK_MARK: u32 = 0x5e51_0003;
/// Packet mark of a SYN to the service that belongs to no connection that conntrack knows.
pub const FRESH_MARK: u32 = 0x5e51_0005;
/// The TUN device from which large packets come that `nfq-splice` has translated.
pub const INJECTION_DEVICE: &str = "resplice0";
/// The proxy's table.
pub const PROXY_TABLE: &str = "resplice_proxy";
/// The logger's table.
pub const LOGGER_TABLE: &str = "resplice_logger";
/// The proxy's set of client addresses and ports whose packets are queued before conntrack, untracked.
pub const QUEUED_SET: &str = "queued";
/// The chain that hands packets to the first queue, whatever they are.
pub const HAND_OVER_CHAIN: &str = "hand_over";
/// The chain that hands a client's packets to its queue.
pub const CLIENT_CHAIN: &str = "from_client";
/// The chain that hands a backend's packets to the queue of the client that they are for.
pub const BACKEND_CHAIN: &str = "from_backend";
/// The first queue of `nfq-splice`; it has up to [`placement::MAX_QUEUES`].
pub const PROXY_QUEUE: u16 = 100;
/// The queue of `nfq-logger`.
pub const LOGGER_QUEUE: u16 = 10;

/// The name of the chain that queues to a daemon's queue number `index`, counted from 0.
pub fn queue_chain(index: usize) -> String {
    format!("to_queue_{index}")
}

/// How packets are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueForm {
    /// nft's `queue` expression (`CONFIG_NFT_QUEUE`).
    Native,
    /// The xtables target NFQUEUE, by `nft_compat` (`CONFIG_NFT_COMPAT`, `CONFIG_NETFILTER_XT_TARGET_NFQUEUE`).
    Target,
}

impl QueueForm {
    /// As in options and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Target => "target",
        }
    }

    /// The native form where this kernel has it, else the target. Needs `CAP_NET_ADMIN`; changes nothing.
    pub fn probe() -> Result<Self, Error> {
        Ok(if netfilter::target::native_queue_available()? { Self::Native } else { Self::Target })
    }
}

/// The rules of one role.
pub trait Ruleset {
    /// The family of its table.
    fn family(&self) -> Family;
    /// The name of its table.
    fn table(&self) -> &'static str;
    /// The queues that its daemon reads.
    fn queues(&self) -> Range<u16>;
    /// The set that bounds how many flows there may be, and its size.
    fn set(&self) -> Option<(&'static str, u32)> {
        None
    }
    /// One transaction for `nft -f`: makes the table as wanted, whatever it held, and keeps its sets' elements. In
    /// the target form it leaves the chains of [`queue_chain`] as they are.
    fn render(&self, form: QueueForm) -> String;
}

/// Sorted, each once.
fn one_family(family: Family, mut backends: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
    if backends.is_empty() {
        return Err(Error::NoBackends);
    }
    if let Some(other) = backends.iter().find(|backend| text::family(**backend) != family) {
        return Err(Error::MixedFamilies(*other));
    }
    backends.sort_unstable();
    backends.dedup();
    Ok(backends)
}
