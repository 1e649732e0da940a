//! Packets on their way, and who gets them.

use packet::TcpSegment;

/// Where a packet arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Client,
    Proxy,
    Logger,
    Backend(usize),
}

/// [`Packet::born`] of a packet whose timestamp may be of any time.
pub const AGE_UNKNOWN: u64 = u64::MAX;

/// A packet on its way, and when it first came into being: a later one must not carry an earlier timestamp.
#[derive(Debug, Clone)]
pub struct Packet {
    pub bytes: Vec<u8>,
    /// [`AGE_UNKNOWN`]: the engine may have made it anew from an older one.
    pub born: u64,
    pub from_backend: Option<usize>,
    /// When it left the proxy towards the client.
    pub departed: u64,
    /// The window that its maker announced in it, bytes; `None`: the engine made it, or a stranger.
    pub window: Option<u32>,
}

/// One line for people.
pub fn show(bytes: &[u8]) -> String {
    let Ok(segment) = TcpSegment::parse(bytes) else { return "unreadable".to_owned() };
    let flags = segment.flags();
    let names = [(flags.syn(), 'S'), (flags.fin(), 'F'), (flags.rst(), 'R'), (flags.ack(), '.')];
    let names: String = names.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    format!(
        "{}>{} {names} seq {} len {} ack {} win {} ts {:?}",
        segment.source(),
        segment.destination(),
        segment.seq().0,
        segment.payload().len(),
        segment.ack().0,
        segment.window(),
        segment.timestamps()
    )
}
