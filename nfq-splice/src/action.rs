//! What goes into the engine beside packets, and what comes out of it.

use std::net::SocketAddr;

use cluster::control::{Client, FromProxy};

use crate::parked::Parked;

/// Where a packet was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In raw PREROUTING, before conntrack: it may be rewritten and accepted.
    Raw,
    /// As [`Self::Raw`]: several segments in one, their checksums not filled in, that may also go on as such.
    Large,
    /// A SYN, after conntrack, which knew no connection of these addresses when it came. As [`Self::Tracked`] otherwise.
    Fresh,
    /// After conntrack: accepted it would confirm a wrong tuple (design §9), so it is always dropped or re-sent.
    Tracked,
}

/// What becomes of the queued packet itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The engine has taken from it what it needs.
    Drop,
    /// It was rewritten in place and goes on.
    Rewritten,
    /// It was rewritten in place but for its TCP checksum, which holds the pseudo-header's sum, and goes on as segments of so
    /// many bytes of data. Only of [`Stage::Large`].
    Segments(u16),
    /// It does not concern the proxy and goes on as it is.
    Untouched,
}

/// A splice as the kernel can hold it: one conntrack entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSplice {
    /// The client.
    pub client: Client,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// Added to sequence numbers server→client, subtracted from acknowledgements client→server.
    pub delta: u32,
    /// Added to TSval server→client, subtracted from TSecr client→server; `None`: no timestamps.
    pub timestamps: Option<u32>,
    /// The window scales of client and server; `None`: none were negotiated.
    pub window_scales: Option<(u8, u8)>,
    /// SACK was negotiated.
    pub sack_permitted: bool,
}

/// What the kernel says of a connection's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// The connection is established or closing.
    Open,
    /// It is in TIME-WAIT or closed.
    Closed,
    /// There is no entry.
    Missing,
}

/// What the end of an entry means for its client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has ended.
    Yes,
    /// It may have, or the entry was an earlier connection's: the kernel knows.
    Perhaps,
    /// The entry was an earlier connection's.
    No,
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this packet, untracked.
    Send(Vec<u8>),
    /// As [`Self::Send`], but it must have left before the connection's new way is open: it ends a handshake.
    SendFirst(Vec<u8>),
    /// Queue this client's packets before conntrack from now on, off the fast path; what passed there is told
    /// ([`crate::Engine::handle_passed`]).
    Suspend(Client),
    /// No longer.
    Resume(Client),
    /// Create the conntrack entry, replacing one that is there. A failure goes to [`crate::Engine::handle_splice_failed`]; so does a
    /// FIN that had passed on the fast path by then, unseen by the entry, and what passed is told after that.
    Splice(KernelSplice),
    /// Keep it in the kernel for a daemon after this one, replacing an entry that is there. A failure costs a restart this
    /// connection, nothing else. Before its packets are queued: a daemon that died in between would leave nothing of it.
    Park(Parked),
    /// Let the fast path translate most of it, where it can; its packets are queued before conntrack.
    Record(Parked),
    /// Let the fast path alone translate it from now on, both FINs included. A failure goes to [`crate::Engine::handle_recalled`].
    Hasten(Parked),
    /// Tell what passed, then [`crate::Engine::handle_looked`]: it stays on the fast path, where a daemon after this one would find it.
    Look(Client),
    /// Take it off the fast path: tell what passed ([`crate::Engine::handle_passed`]), then [`crate::Engine::handle_recalled`].
    Recall(Client),
    /// Delete the conntrack entry, spliced or parked, if it is there.
    Unsplice(Client),
    /// Ask the kernel for the entry's state and answer with [`crate::Engine::handle_entry_state`].
    Inspect {
        /// Whose.
        client: Client,
        /// The SYN that made it necessary, to be handed back.
        syn: Vec<u8>,
    },
    /// Tell the subscribed recovery managers.
    Tell(FromProxy),
}
