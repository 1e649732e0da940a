//! Connections that the proxy itself translates, kept for a daemon after this one: each as a conntrack entry with a mark of
//! its own that no packet uses, because its packets are queued before conntrack. It is made when the connection is
//! spliced and nothing is owed any more, renewed while the connection is used, and deleted when it ends.

use packet::{SynOptions, Time};

use crate::action::{Action, KernelSplice};
use crate::common::Core;
use crate::ecn::Ecn;
use crate::engine::Engine;
use crate::flow::{Flow, Splice, State};
use crate::leg::ClientLeg;
use crate::pass::Shortfall;

/// What was negotiated, in the entry's field that translates no packet: the MSS in the upper 16 bits (0: none).
const ANNOUNCED: u32 = 0xf;
const CLIENT_SCALE_SHIFT: u32 = 4;
const NO_SCALE: u32 = 0xf;
const TIMESTAMPS: u32 = 1 << 8;
const ECN: u32 = 1 << 9;
/// The most that the backend takes where the client was told more, in units, rounded down; 0: not less than that.
const SHORT_SHIFT: u32 = 10;
const SHORT: u32 = 0x3f;
const SHORT_UNIT: u16 = 64;
const MSS_SHIFT: u32 = 16;

/// A splice with what an entry that the kernel translates by has no need of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    /// `window_scales`: what the backend applies to the client's windows, and its own.
    pub splice: KernelSplice,
    /// The scale that the client was told.
    pub announced_scale: u8,
    /// What the client offered; the value of a timestamp is not kept.
    pub options: SynOptions,
    /// It was promised ECN.
    pub ecn: bool,
    /// The most that the backend takes, in units of 64 bytes and at most 63 of them, if the client was told more.
    pub short: u8,
    /// Where the proxy makes up the backend's timestamps: what is added to the millisecond clock. It goes on so even if the key that the
    /// clock came from is lost.
    pub clock: Option<u32>,
}

impl Parked {
    /// All but `splice`, as one number.
    pub fn rest(&self) -> u32 {
        let scale = self.options.window_scale.map_or(NO_SCALE, |scale| u32::from(scale.min(14)));
        let timestamps = if self.options.timestamp.is_some() { TIMESTAMPS } else { 0 };
        let mss = u32::from(self.options.mss.unwrap_or(0));
        mss << MSS_SHIFT
            | timestamps
            | if self.ecn { ECN } else { 0 }
            | (u32::from(self.short) & SHORT) << SHORT_SHIFT
            | scale << CLIENT_SCALE_SHIFT
            | u32::from(self.announced_scale) & ANNOUNCED
    }

    /// From what was kept, but for `clock`; any number gives something.
    pub fn new(splice: KernelSplice, rest: u32) -> Self {
        let (mss, scale) = ((rest >> MSS_SHIFT) as u16, rest >> CLIENT_SCALE_SHIFT & NO_SCALE);
        let options = SynOptions {
            mss: (mss > 0).then_some(mss),
            window_scale: (scale != NO_SCALE).then_some(scale as u8),
            sack_permitted: splice.sack_permitted,
            timestamp: (rest & TIMESTAMPS != 0).then_some(0),
        };
        let announced_scale = ((rest & ANNOUNCED) as u8).min(14);
        let short = (rest >> SHORT_SHIFT & SHORT) as u8;
        Self { splice, announced_scale, options, ecn: rest & ECN != 0, short, clock: None }
    }

    /// The daemon cuts or completes its segments, which nobody else does.
    pub fn is_made_up_for(&self) -> bool {
        !self.lacks().is_none()
    }

    fn lacks(&self) -> Shortfall {
        Shortfall {
            mss: (self.short > 0).then(|| u16::from(self.short) * SHORT_UNIT),
            timestamps: self.options.timestamp.is_some() && self.splice.timestamps.is_none(),
        }
    }

    pub(crate) fn of(leg: &ClientLeg, splice: &Splice) -> Self {
        let kept = KernelSplice {
            client: leg.client,
            backend: splice.backend,
            delta: splice.delta,
            timestamps: splice.ts,
            window_scales: Some((splice.client_scale, splice.server_scale)),
            sack_permitted: leg.options.sack_permitted,
        };
        let ecn = leg.ecn == Ecn::Promised;
        let units = |mss: u16| (mss / SHORT_UNIT).clamp(1, SHORT as u16) as u8;
        let short = splice.lacks.mss.map_or(0, units);
        let (announced_scale, options) = (leg.announced_scale, leg.options);
        Self { splice: kept, announced_scale, options, ecn, short, clock: None }
    }
}

impl Core {
    /// Keeps it for a daemon after this one; again, if it may have expired.
    pub(crate) fn park(&mut self, flow: &mut Flow) {
        if let State::Spliced(splice) = &flow.state
            && !splice.kernel
            && splice.debts.is_none()
        {
            let clock = splice.lacks.timestamps.then(|| flow.leg.clock_kept(self.now));
            self.act(Action::Park(Parked { clock, ..Parked::of(&flow.leg, splice) }));
            flow.parked = true;
        }
    }

    /// Leaves most of a parked connection to the fast path.
    pub(crate) fn record(&mut self, flow: &Flow) {
        if let State::Spliced(splice) = &flow.state
            && flow.parked
            && splice.lacks.is_none()
        {
            self.act(Action::Record(Parked::of(&flow.leg, splice)));
        }
    }

    pub(crate) fn unpark(&mut self, flow: &mut Flow) {
        if std::mem::replace(&mut flow.parked, false) {
            self.act(Action::Unsplice(flow.leg.client));
        }
    }
}

impl Engine {
    /// A connection that an earlier daemon translated itself.
    pub fn handle_parked(&mut self, now: Time, parked: &Parked) {
        let mut flow = self.parked_flow(now, parked);
        self.core.translate_here(&mut flow);
        self.put(flow);
    }

    /// One that an earlier daemon had left to the fast path alone: to be told what passed of it, and then that it was recalled. Until
    /// something of its backend has passed, what ended the handshake may have been lost.
    pub fn handle_young(&mut self, now: Time, young: &Parked) {
        let mut flow = self.parked_flow(now, young);
        if let State::Spliced(splice) = &mut flow.state {
            splice.unheard = true;
        }
        self.put(flow);
    }

    fn parked_flow(&mut self, now: Time, parked: &Parked) -> Flow {
        self.core.now = now;
        let entry = &parked.splice;
        let leg = self.core.client_leg(entry.client, parked.options);
        let ecn = if parked.ecn { Ecn::Promised } else { Ecn::NotAsked };
        let mut leg = ClientLeg { announced_scale: parked.announced_scale, ecn, ..leg };
        if let Some(clock) = parked.clock {
            leg.go_on(now, clock);
        }
        let of_entry = Splice::of(entry, self.core.busy());
        let splice = Splice { lacks: parked.lacks(), kernel: false, ..of_entry };
        self.core.counters.count("connections_restored");
        self.core.settings.routing.remember(entry.backend);
        Flow::spliced(leg, splice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_comes_back(
            mss in prop::option::of(1_u16..), scale in prop::option::of(0_u8..15), announced in 0_u8..15,
            timestamps: bool, sack_permitted: bool, ecn: bool, short in 0_u8..64,
        ) {
            let splice = KernelSplice {
                client: "192.0.2.1:7".parse().unwrap(),
                backend: "192.0.2.2:80".parse().unwrap(),
                delta: 5,
                timestamps: None,
                window_scales: Some((3, 4)),
                sack_permitted,
            };
            let timestamp = timestamps.then_some(0);
            let options = SynOptions { mss, window_scale: scale, sack_permitted, timestamp };
            let parked = Parked { splice, announced_scale: announced, options, ecn, short, clock: None };
            prop_assert_eq!(Parked::new(splice, parked.rest()), parked);
        }

        #[test]
        fn any_number_is_survived(rest: u32) {
            let splice = KernelSplice {
                client: "192.0.2.1:7".parse().unwrap(),
                backend: "192.0.2.2:80".parse().unwrap(),
                delta: 5,
                timestamps: None,
                window_scales: None,
                sack_permitted: false,
            };
            let parked = Parked::new(splice, rest);
            prop_assert!(parked.announced_scale <= 14);
        }
    }
}
