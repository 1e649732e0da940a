//! A connection that the kernel translates, in few bytes: most connections are such, and idle.

use std::net::SocketAddr;

use cluster::control::Client;
use packet::{Seq, SynOptions, Time};

use crate::action::KernelSplice;
use crate::ecn::Ecn;
use crate::flow::{Closing, Flow, Idle, Splice, State};
use crate::key::Key;
use crate::leg::ClientLeg;
use crate::pass::Shortfall;

/// No window scale was offered (those above 14 count as 14).
const NO_SCALE: u8 = u8::MAX;
/// No window was seen; a scaled window has at most 30 bits.
const NO_WINDOW: u32 = u32::MAX;
const HAS_MSS: u8 = 1;
const HAS_SACK: u8 = 2;
const OFFERED_TIMESTAMPS: u8 = 4;
const HAS_TIMESTAMPS: u8 = 8;
const HAS_ECN: u8 = 16;

/// All that a splice in the kernel needs, but its client, which is its key in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compact {
    delta: u32,
    ts: u32,
    /// When it was last seen here, milliseconds modulo 2³².
    seen: u32,
    clock_offset: u32,
    clock_floor: u32,
    ts_recent: u32,
    acked: u32,
    window: u32,
    max_window: u32,
    resplices: u32,
    mss: u16,
    announced_mss: u16,
    backend: Key,
    /// Offered by the client, and applied by its backend.
    client_scale: u8,
    /// Announced to the client, and the backend's own: otherwise the kernel could not translate.
    server_scale: u8,
    bits: u8,
}

impl Compact {
    /// `None`: the connection is none that only the kernel has to do with.
    pub(crate) fn of(flow: &Flow) -> Option<Self> {
        let Flow {
            leg,
            resplices,
            suspended: false,
            parked: false,
            acted: _,
            began: _,
            state: State::Spliced(splice),
            timer: None,
        } = flow
        else {
            return None;
        };
        let Splice {
            backend,
            delta,
            ts,
            server_scale,
            client_scale,
            lacks: Shortfall { mss: None, timestamps: false },
            kernel: true,
            unheard: false,
            debts: None,
            closing,
            // Of no use while the kernel translates: the table remembers the latest for a while.
            window: _,
            idle,
            young: None,
        } = splice
        else {
            return None;
        };
        let ClientLeg {
            client: _,
            service: _,
            options: SynOptions { mss, window_scale, sack_permitted, timestamp },
            announced_scale,
            announced_mss,
            clock_offset,
            clock_floor,
            ts_recent,
            acked,
            window,
            odd_places: false,
            ecn,
            max_window,
        } = leg
        else {
            return None;
        };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let same_scales = server_scale == announced_scale && *client_scale == leg.client_scale();
        (same_scales && *closing == Closing::default()).then(|| Self {
            delta: *delta,
            ts: ts.unwrap_or(0),
            seen: idle.seen.as_millis() as u32,
            clock_offset: *clock_offset,
            clock_floor: *clock_floor,
            ts_recent: *ts_recent,
            acked: acked.0,
            window: window.unwrap_or(NO_WINDOW),
            max_window: *max_window,
            resplices: *resplices,
            mss: mss.unwrap_or(0),
            announced_mss: *announced_mss,
            backend: (*backend).into(),
            client_scale: window_scale.unwrap_or(NO_SCALE),
            server_scale: *server_scale,
            bits: bit(mss.is_some(), HAS_MSS)
                | bit(*sack_permitted, HAS_SACK)
                | bit(timestamp.is_some(), OFFERED_TIMESTAMPS)
                | bit(ts.is_some(), HAS_TIMESTAMPS)
                | bit(*ecn == Ecn::Promised, HAS_ECN),
        })
    }

    /// As before; the client's first timestamp, which nobody needs any more, is 0.
    pub(crate) fn expand(&self, client: Client, service: SocketAddr, now: Time) -> Flow {
        let seen = self.seen(now);
        // Conntrack keeps account of idleness.
        let idle = Idle { seen, check: now };
        let has = |bit: u8| self.bits & bit != 0;
        let options = SynOptions {
            mss: has(HAS_MSS).then_some(self.mss),
            window_scale: (self.client_scale != NO_SCALE).then_some(self.client_scale),
            sack_permitted: has(HAS_SACK),
            timestamp: has(OFFERED_TIMESTAMPS).then_some(0),
        };
        let leg = ClientLeg {
            client,
            service,
            options,
            announced_scale: self.server_scale,
            announced_mss: self.announced_mss,
            clock_offset: self.clock_offset,
            clock_floor: self.clock_floor,
            ts_recent: self.ts_recent,
            acked: Seq(self.acked),
            window: (self.window != NO_WINDOW).then_some(self.window),
            odd_places: false,
            ecn: if has(HAS_ECN) { Ecn::Promised } else { Ecn::NotAsked },
            max_window: self.max_window,
        };
        let entry = KernelSplice {
            client,
            backend: self.backend(),
            delta: self.delta,
            timestamps: has(HAS_TIMESTAMPS).then_some(self.ts),
            window_scales: Some((options.window_scale.unwrap_or(0), self.server_scale)),
            sack_permitted: options.sack_permitted,
        };
        Flow { resplices: self.resplices, ..Flow::spliced(leg, Splice::of(&entry, idle)) }
    }

    /// Right for seven weeks, then too late.
    pub(crate) fn seen(&self, now: Time) -> Time {
        let ago = (now.as_millis() as u32).wrapping_sub(self.seen);
        Time::from_nanos(now.as_nanos().saturating_sub(u64::from(ago) * 1_000_000))
    }

    pub(crate) fn backend(&self) -> SocketAddr {
        self.backend.into()
    }

    pub(crate) fn resplices(&self) -> u32 {
        self.resplices
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost(
            numbers in any::<[u32; 8]>(),
            scales in prop::array::uniform2(0..15_u8),
            options in any::<(Option<u16>, bool, bool, bool, bool)>(),
            window in prop::option::of(0..1_u32 << 30),
            client in any::<([u8; 4], u16)>(),
            backend in any::<([u8; 16], u16)>(),
            ecn: bool,
            announced_mss: u16,
        ) {
            let [delta, ts, clock_offset, clock_floor, ts_recent, acked, resplices, max_window] = numbers;
            let [offered, server_scale] = scales;
            let (mss, sack_permitted, scaled, timestamps, both) = options;
            let service: SocketAddr = ([10, 9, 9, 9], 80).into();
            let options = SynOptions {
                mss,
                window_scale: scaled.then_some(offered),
                sack_permitted,
                timestamp: timestamps.then_some(0),
            };
            let leg = ClientLeg {
                client: client.into(), service, options, announced_scale: server_scale, announced_mss, clock_offset, clock_floor, ts_recent,
                acked: Seq(acked), window, odd_places: false, ecn: if ecn { Ecn::Promised } else { Ecn::NotAsked }, max_window,
            };
            let idle = Idle { seen: Time::from_millis(1), check: Time::from_millis(2) };
            let splice = Splice {
                backend: backend.into(), delta, ts: (timestamps && both).then_some(ts), server_scale, client_scale: if scaled { offered } else { 0 }, lacks: Shortfall::default(), kernel: true, unheard: false, debts: None, closing: Closing::default(), window: None, idle, young: None,
            };
            let flow = Flow { leg, resplices, suspended: false, parked: false, acted: 0, began: 0, state: State::Spliced(splice), timer: None };
            let compact = Compact::of(&flow).unwrap();
            let expanded = compact.expand(client.into(), service, Time::from_millis(100));
            prop_assert_eq!(Compact::of(&expanded), Some(compact));
            prop_assert_eq!((expanded.leg.options, expanded.leg.ecn, expanded.leg.announced_mss), (options, flow.leg.ecn, announced_mss));
            prop_assert_eq!((expanded.leg.window, expanded.leg.max_window), (window, max_window));
            prop_assert_eq!((expanded.client(), expanded.backend()), (flow.client(), flow.backend()));
            let State::Spliced(splice) = expanded.state else { panic!("not spliced") };
            prop_assert_eq!((splice.ts, splice.delta), ((timestamps && both).then_some(ts), delta));
        }
    }
}
