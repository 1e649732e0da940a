use std::io;

/// Why rules could not be made, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Backends and service are of different families.
    #[error(
        "backend {0} is not of the service's address family; give all of them IPv4 or all IPv6 addresses"
    )]
    MixedFamilies(std::net::SocketAddr),
    /// Nothing to write rules for.
    #[error("the configuration has no backend; add at least one [backend.NAME] with an address")]
    NoBackends,
    /// The program `nft` is missing.
    #[error("nft not found in PATH; install nftables (Debian: apt-get install nftables)")]
    NftMissing,
    /// The program `nft` could not be used.
    #[error("cannot run nft: {0}")]
    NftRun(#[from] io::Error),
    /// `nft` refused.
    #[error("nft refused: {0}")]
    NftRefused(String),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] netfilter::Error),
    /// The kernel cannot change a set's size.
    #[error(
        "the set {0} has another size than is wanted, and a daemon uses it; stop the daemon, then install again"
    )]
    SetSize(&'static str),
    /// Removal would drop what a daemon holds.
    #[error(
        "queue {0} is in use: removing a table drops every packet held in every queue of this namespace; \
         stop the daemon first, or force"
    )]
    QueueInUse(u16),
}
