//! The nft rulesets of the roles, as typed values.
//!
//! * [`proxy`], [`logger`]: what each role wants, and how it reads as nft text;
//! * [`install`]: putting rules in (one transaction, no table is ever torn down), taking them out;
//! * [`check`]: whether what is installed is what is wanted, and whether the kernel can do it.
//!
//! Packets reach a daemon through one chain, [`QUEUE_CHAIN`]. Where nft has a native `queue` expression it is text
//! like the rest; elsewhere the chain stays empty in the text and [`netfilter::target`] fills it. The chain
//! [`HAND_OVER_CHAIN`], which all rules go to, drops what the queue chain lets through: no bypass.

pub mod check;
mod differences;
mod error;
pub mod install;
pub mod logger;
mod nft;
pub mod proxy;
mod text;

pub use error::Error;
pub use logger::LoggerRules;
pub use proxy::ProxyRules;

use std::net::SocketAddr;

use netfilter::Family;

/// Conntrack mark of entries that are splices.
pub const SPLICED_MARK: u32 = 0x5e51_0001;
/// Mark of packets that `nfq-splice` sends by its raw socket; they are not tracked.
pub const RAW_MARK: u32 = 0x5e51_0002;
/// Packet mark of what is queued before conntrack: only such packets may be rewritten and accepted.
pub const BEFORE_CONNTRACK_MARK: u32 = 0x5e51_0003;
/// The proxy's table.
pub const PROXY_TABLE: &str = "resplice_proxy";
/// The logger's table.
pub const LOGGER_TABLE: &str = "resplice_logger";
/// The proxy's set of client addresses and ports whose packets are queued before conntrack, untracked.
pub const QUEUED_SET: &str = "queued";
/// The chain that queues, in both tables.
pub const QUEUE_CHAIN: &str = "to_queue";
/// The chain that calls [`QUEUE_CHAIN`] and drops what comes back.
pub const HAND_OVER_CHAIN: &str = "hand_over";
/// The queue of `nfq-splice`.
pub const PROXY_QUEUE: u16 = 5;
/// The queue of `nfq-logger`.
pub const LOGGER_QUEUE: u16 = 10;

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
    /// The queue that its daemon reads.
    fn queue(&self) -> u16;
    /// The set that bounds how many flows there may be, and its size.
    fn set(&self) -> Option<(&'static str, u32)> {
        None
    }
    /// One transaction for `nft -f`: makes the table as wanted, whatever it held, and keeps its sets' elements. In
    /// the target form it does not touch [`QUEUE_CHAIN`].
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
