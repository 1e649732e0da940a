//! Nobody is sent more than its window takes, and no window is translated into a wrong one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use packet::{Seq, TcpSegment};

/// Farther beyond an edge are numbers of an earlier connection.
const NEAR: i32 = 1 << 24;
/// A closed window is probed with so many bytes: smoltcp repeats a probe that was not answered together with the next one.
const PROBE: u32 = 2;
/// To see what an alternate has to be compared, it must be given room for a segment more, whatever the client has.
const SEGMENT: u32 = 1460;

/// What one end of a connection has announced, and was told.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    /// Window scale in its own SYN, in its peer's.
    scales: (Option<u8>, Option<u8>),
    isn: Option<Seq>,
    /// The number of the answer to its own SYN.
    answer: Option<Seq>,
    /// The right edge of its window: what it takes lies before.
    edge: Option<Seq>,
    /// The right edge of its peer's window, as it was told.
    told: Option<Seq>,
}

impl End {
    fn own_scale(&self) -> u8 {
        self.scales.0.filter(|_| self.scales.1.is_some()).unwrap_or(0)
    }

    fn peer_scale(&self) -> u8 {
        self.scales.1.filter(|_| self.scales.0.is_some()).unwrap_or(0)
    }
}

fn later(known: Option<Seq>, edge: Seq) -> Seq {
    known.map_or(edge, |known| known.max(edge))
}

/// By own and peer's address.
#[derive(Debug, Default)]
pub struct Windows {
    ends: BTreeMap<(SocketAddr, SocketAddr), End>,
}

impl Windows {
    /// A packet leaves the host that made it. Gives the window that it announces, bytes.
    pub fn leaves(&mut self, segment: &TcpSegment<'_>) -> u32 {
        let end = self.ends.entry((segment.source(), segment.destination())).or_default();
        let flags = segment.flags();
        if flags.syn() {
            let peer = end.scales.1.filter(|_| flags.ack());
            let scales = (segment.syn_options().window_scale, peer);
            *end = End { scales, isn: Some(segment.seq()), ..End::default() };
        }
        let scale = if flags.syn() { 0 } else { end.own_scale() };
        let window = u32::from(segment.window()) << scale;
        if flags.ack() && !flags.rst() {
            end.edge = Some(later(end.edge, segment.ack() + window));
        }
        window
    }

    /// A packet reaches its receiver. What a client was told by an earlier backend, it may send to a later one.
    /// `recovered`: a backend of this connection has failed.
    pub fn reaches(
        &mut self,
        segment: &TcpSegment<'_>,
        service: SocketAddr,
        recovered: bool,
    ) -> Result<(), String> {
        let told = self.ends.get(&(segment.source(), service)).and_then(|client| client.told);
        let end = self.ends.entry((segment.destination(), segment.source())).or_default();
        let flags = segment.flags();
        // The answer to a forged SYN, or another one to a SYN that was answered before.
        if flags.syn() && flags.ack() {
            let is_own = end.isn.is_some_and(|isn| segment.ack() == isn + 1);
            if !is_own || *end.answer.get_or_insert(segment.seq()) != segment.seq() {
                return Ok(());
            }
        }
        if flags.syn() {
            end.scales.1 = segment.syn_options().window_scale;
        }
        if flags.ack() && !flags.rst() {
            let scale = if flags.syn() { 0 } else { end.peer_scale() };
            end.told = Some(later(end.told, segment.ack() + (u32::from(segment.window()) << scale)));
        }
        let Some(edge) = end.edge.filter(|_| !segment.payload().is_empty()) else { return Ok(()) };
        let more = if recovered { SEGMENT } else { PROBE };
        let last = segment.seq() + segment.payload().len() as u32;
        let excess = |edge: Seq| (1..NEAR).contains(&last.since(edge + more));
        if excess(edge) && told.is_none_or(excess) {
            let beyond = last.since(edge);
            return Err(format!("{beyond} bytes more than its window are sent to {}", segment.destination()));
        }
        Ok(())
    }

    /// The window of a translated segment, as its receiver will read it, against the one that its sender announced: never
    /// more, and no less than the field can express.
    pub fn translated(&self, segment: &TcpSegment<'_>, announced: u32) -> Result<(), String> {
        let end = self.ends.get(&(segment.destination(), segment.source())).copied().unwrap_or_default();
        let scale = end.peer_scale();
        let read = u32::from(segment.window()) << scale;
        let most = announced.min(0xffff << scale);
        // Network stacks never round a window to nothing.
        if segment.flags().syn()
            || (read <= announced.max(u32::from(announced > 0) << scale) && read + (1 << scale) > most)
        {
            return Ok(());
        }
        Err(format!(
            "a window of {announced} bytes is translated into one of {read} for {}",
            segment.destination()
        ))
    }
}
