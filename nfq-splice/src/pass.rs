//! How a translated segment leaves: rewritten where it was queued, or cut into what its receiver takes and sent anew.

use packet::{TcpSegment, Translation, add_timestamps, split};

use crate::action::{Stage, Verdict};
use crate::common::Core;
use crate::flow::{Flow, State};
use crate::leg::{BackendLeg, ClientLeg};

/// No smaller segments are made for anybody: what is left of 88 bytes, the least that Linux sends, beside options (RFC 9293 §3.7.1).
pub(crate) const LEAST_MSS: u16 = 88;

/// What a client was promised and its backend does not keep: the proxy makes up for it, segment by segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shortfall {
    /// The backend takes no longer segments, options included, than this; the client was told more.
    pub(crate) mss: Option<u16>,
    /// The client drops what has no timestamps (RFC 7323 §3.2), the backend sends none.
    pub(crate) timestamps: bool,
}

impl Shortfall {
    /// Of a backend that has answered.
    pub(crate) fn of(leg: &ClientLeg, to: &BackendLeg) -> Self {
        let takes = to.mss().max(LEAST_MSS);
        Self {
            mss: (takes < leg.announced_mss).then_some(takes),
            timestamps: leg.has_timestamps() && !to.has_timestamps(leg),
        }
    }

    /// Nothing lacks.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Core {
    /// Sends a segment on.
    pub(crate) fn pass(
        &mut self,
        flow: &Flow,
        packet: &mut [u8],
        translation: &Translation,
        stage: Stage,
    ) -> Verdict {
        let tracked_path = matches!(&flow.state, State::Spliced(splice) if splice.kernel);
        let made_up = makes_up(flow, packet);
        let in_place = matches!(stage, Stage::Raw | Stage::Large) && !tracked_path && !made_up;
        let whole = if stage == Stage::Large && in_place { self.whole_segments(flow, packet) } else { None };
        let applied = match whole {
            Some(_) => translation.apply_unsummed(packet),
            None => translation.apply(packet),
        };
        if applied.is_err() {
            self.counters.count("malformed_dropped");
            return Verdict::Drop;
        }
        if let Some(bytes) = whole {
            return Verdict::Segments(bytes);
        }
        if in_place {
            return Verdict::Rewritten;
        }
        self.counters.count(if made_up { "segments_made_up" } else { "segments_resent" });
        self.send_cut(flow, packet);
        Verdict::Drop
    }

    /// In segments that the receiver takes, with timestamps if it expects them.
    fn send_cut(&mut self, flow: &Flow, packet: &[u8]) {
        let lacks = shortfall(flow);
        let Ok(segment) = TcpSegment::parse(packet) else { return };
        let bytes = match lacks.mss.filter(|_| segment.destination() != flow.leg.client) {
            Some(mss) => usize::from(mss).saturating_sub(segment.option_bytes()),
            None => flow.leg.payload_bytes(self.mss()),
        };
        let stamps = lacks.timestamps && segment.destination() == flow.leg.client;
        let stamps = stamps.then(|| (flow.leg.clock(self.now), flow.leg.ts_recent));
        for piece in split(packet, bytes).unwrap_or_default() {
            match stamps {
                Some(stamps) => self.send(add_timestamps(&piece, stamps).unwrap_or(piece)),
                None => self.send(piece),
            }
        }
    }

    /// The data bytes of each of the segments that the backend has put together for the client, where that is known: all are as
    /// long as the client's MSS and the path to it allow. The last segment of a response is not, nor are those of a backend
    /// that keeps to less.
    fn whole_segments(&self, flow: &Flow, packet: &[u8]) -> Option<u16> {
        let segment =
            TcpSegment::parse(packet).ok().filter(|segment| segment.destination() == flow.leg.client)?;
        let bytes = flow.leg.payload_bytes(self.mss());
        let whole = !segment.payload().is_empty() && segment.payload().len().is_multiple_of(bytes);
        u16::try_from(bytes).ok().filter(|_| whole)
    }
}

fn shortfall(flow: &Flow) -> Shortfall {
    if let State::Spliced(splice) = &flow.state { splice.lacks } else { Shortfall::default() }
}

/// Whether a segment, not translated yet, cannot go on as it is.
fn makes_up(flow: &Flow, packet: &[u8]) -> bool {
    let lacks = shortfall(flow);
    if lacks.is_none() {
        return false;
    }
    let Ok(segment) = TcpSegment::parse(packet) else { return false };
    if segment.source() == flow.leg.client {
        let bytes = segment.option_bytes() + segment.payload().len();
        lacks.mss.is_some_and(|mss| bytes > usize::from(mss))
    } else {
        lacks.timestamps
    }
}
