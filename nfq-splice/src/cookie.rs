//! Initial sequence numbers from which a set-up can be continued without state: SYN cookies that keep all options.
//!
//! Every SYN-ACK carries one, so that the same check serves a flood of SYNs (no state was kept) and a restart of this
//! daemon (it was lost). The number is clock-driven and keyed (RFC 9293 MUST-8, MUST-9; RFC 6528):
//!
//! ```text
//! F(client) + [ period mod 2⁹ : 9 bits | (MAC(client, its ISN, our scale, period) + options) mod 2²³ : 23 bits ]
//! ```
//!
//! A period is 2²³ steps of 4 µs (33.6 s), so that the whole advances at RFC 6528's rate. The numbers of this period and
//! the one before are good: a cookie lives 33.6 to 67.1 s. Options are nine bits: the class of the MSS (3), the window
//! scale (4), SACK-permitted (1), timestamps (1); nothing is lost but an MSS between two classes.
//!
//! **Strength.** For one client and ISN, 2 periods × 2⁹ options of 2³² numbers are good, each for each of at most three
//! scales that this proxy may have announced (all fifteen, for one lifetime after the start): a blind guess
//! succeeds once in 2²¹ to 2²³ tries (2¹⁹), and guesses are counted only while cookies are taken at all: for one lifetime after a SYN was answered without state, or after the start.

use std::net::SocketAddr;
use std::time::Duration;

use packet::{Seq, SynOptions, Time};

use crate::secret::Secret;

/// Bits of a number below the count of periods.
const LOW_BITS: u32 = 23;
const LOW: u32 = (1 << LOW_BITS) - 1;
/// Steps of the clock (RFC 9293 §3.4.1), nanoseconds.
const STEP: u64 = 4000;
/// Periods whose numbers are good: the present one and one before.
const GOOD_PERIODS: u64 = 2;
/// Bits that say which options were offered.
const OPTION_BITS: u32 = 9;
/// MSS classes, ascending: what common links and tunnels give. Zero: none offered. The lowest is the least that is ever sent.
const MSS: [u16; 8] = [0, 88, 536, 1220, 1360, 1440, 1460, 8960];
/// No window scale offered.
const NO_SCALE: u32 = 15;

/// No cookie is good for longer than this.
pub(crate) const LIFETIME: Duration = Duration::from_nanos((GOOD_PERIODS * STEP) << LOW_BITS);

/// What a cookie is bound to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handshake {
    pub(crate) client: SocketAddr,
    /// The client's initial sequence number.
    pub(crate) irs: Seq,
    /// The window scale that the client is, or was, told.
    pub(crate) announced_scale: u8,
    pub(crate) maker: Maker,
}

/// Who answered the SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// This daemon, or one before.
    Daemon,
    /// The fast path's program (`lib/netfilter/src/fast_path/handshake.rs`), which computes the same.
    Program,
}

fn period(now: Time) -> u64 {
    (now.as_nanos() / STEP) >> LOW_BITS
}

/// The number for a SYN that offers `options`.
pub(crate) fn make(secret: &Secret, now: Time, handshake: &Handshake, options: &SynOptions) -> Seq {
    let period = period(now);
    let low = mac(secret, handshake, period).wrapping_add(encode(options)) & LOW;
    Seq(((period as u32) << LOW_BITS | low).wrapping_add(secret.sequence_offset(handshake.client)))
}

/// The options that were offered in the handshake that `iss` answered, if it did and is not too old. `timestamp`: the TSval
/// of the client's segment, if it has one.
pub(crate) fn check(
    secret: &Secret,
    now: Time,
    handshake: &Handshake,
    iss: Seq,
    timestamp: Option<u32>,
) -> Option<SynOptions> {
    let number = iss.0.wrapping_sub(secret.sequence_offset(handshake.client));
    let period = period_of(now, number)?;
    let data = (number & LOW).wrapping_sub(mac(secret, handshake, period)) & LOW;
    decode(data, timestamp)
}

/// The period of a number, if it is good.
fn period_of(now: Time, number: u32) -> Option<u64> {
    let age = (period(now) as u32).wrapping_sub(number >> LOW_BITS) & (u32::MAX >> LOW_BITS);
    period(now).checked_sub(u64::from(age)).filter(|_| u64::from(age) < GOOD_PERIODS)
}

/// Whether `iss` may be a cookie that is not too old, for all that is known without the client's initial number.
pub(crate) fn may_be_good(secret: &Secret, now: Time, client: SocketAddr, iss: Seq) -> bool {
    period_of(now, iss.0.wrapping_sub(secret.sequence_offset(client))).is_some()
}

fn mac(secret: &Secret, handshake: &Handshake, period: u64) -> u32 {
    let Handshake { client, irs, announced_scale, maker } = *handshake;
    secret.cookie(maker, (client, irs, announced_scale, period)) as u32 & LOW
}

fn encode(options: &SynOptions) -> u32 {
    let class = options.mss.map_or(0, |mss| MSS.partition_point(|class| *class <= mss).max(2) - 1);
    let scale = options.window_scale.map_or(NO_SCALE, |scale| u32::from(scale.min(14)));
    let flags = u32::from(options.sack_permitted) << 1 | u32::from(options.timestamp.is_some());
    (class as u32) << 6 | scale << 2 | flags
}

/// A client that negotiated timestamps sends them in each segment (RFC 7323 §3.2), another one in none.
fn decode(data: u32, timestamp: Option<u32>) -> Option<SynOptions> {
    let mss = *MSS.get((data >> 6) as usize).filter(|_| data >> OPTION_BITS == 0)?;
    let scale = data >> 2 & 15;
    let timestamps = data & 1 != 0;
    (timestamps == timestamp.is_some()).then_some(SynOptions {
        mss: (mss > 0).then_some(mss),
        window_scale: (scale != NO_SCALE).then_some(scale as u8),
        sack_permitted: data & 2 != 0,
        timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    const KEY: [u8; 16] = *b"0123456789abcdef";

    fn secret() -> Secret {
        Secret::new(KEY)
    }

    fn handshake() -> impl Strategy<Value = Handshake> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
            any::<[u8; 16]>().prop_map(std::net::IpAddr::from)
        ];
        (address, any::<u16>(), any::<u32>(), 0_u8..15).prop_map(|(address, port, irs, announced_scale)| {
            Handshake {
                client: SocketAddr::new(address, port),
                irs: Seq(irs),
                announced_scale,
                maker: Maker::Daemon,
            }
        })
    }

    fn options() -> impl Strategy<Value = SynOptions> {
        let mss = prop::option::of(any::<u16>());
        (mss, prop::option::of(0_u8..15), any::<bool>(), prop::option::of(any::<u32>())).prop_map(
            |(mss, window_scale, sack_permitted, timestamp)| SynOptions {
                mss,
                window_scale,
                sack_permitted,
                timestamp,
            },
        )
    }

    fn time() -> impl Strategy<Value = Time> {
        (0_u64..1 << 52).prop_map(Time::from_nanos)
    }

    /// Every combination, not a sample: 8 classes × 16 scales × SACK × timestamps.
    #[test]
    fn every_combination_of_options_comes_back() {
        let handshake = Handshake {
            client: "192.0.2.1:7".parse().unwrap(),
            irs: Seq(9),
            announced_scale: 7,
            maker: Maker::Daemon,
        };
        let now = Time::from_millis(123_456);
        let (classes, scales) = (MSS.map(|mss| (mss > 0).then_some(mss)), (0..15).map(Some).chain([None]));
        let mut seen = 0;
        for (window_scale, mss) in scales.flat_map(|scale| classes.map(|mss| (scale, mss))) {
            for (sack_permitted, timestamp) in
                [(false, None), (false, Some(5)), (true, None), (true, Some(5))]
            {
                let offered = SynOptions { mss, window_scale, sack_permitted, timestamp };
                let iss = make(&secret(), now, &handshake, &offered);
                assert_eq!(check(&secret(), now, &handshake, iss, timestamp), Some(offered));
                seen += 1;
            }
        }
        assert_eq!(seen, 1 << OPTION_BITS);
    }

    /// Of another client, of another ISN, of another scale, by another maker, of another key: refused, but for what chance lets pass (any of 2⁹
    /// options is good, so one in 2¹⁴). Old, or with timestamps where none were offered: refused always. The same 4096 cases each time.
    #[test]
    fn others_are_refused() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let cases = (handshake(), handshake(), options(), time(), 68_000_u64..15_000_000);
        let mut passed = [0; 5];
        for _ in 0..4096 {
            let (handshake, other, offered, now, age) = cases.new_tree(&mut runner).unwrap().current();
            let iss = make(&secret(), now, &handshake, &offered);
            let timestamp = offered.timestamp;
            let old = now + Duration::from_millis(age);
            assert_eq!(check(&secret(), old, &handshake, iss, timestamp), None);
            let stripped = if timestamp.is_some() { None } else { Some(1) };
            assert_eq!(check(&secret(), now, &handshake, iss, stripped), None);
            let reborn = Handshake { irs: handshake.irs + 1, ..handshake };
            let rescaled = Handshake { announced_scale: handshake.announced_scale ^ 1, ..handshake };
            let remade = Handshake { maker: Maker::Program, ..handshake };
            let strangers =
                [(KEY, other), (KEY, reborn), (KEY, rescaled), (KEY, remade), ([1; 16], handshake)];
            for (passed, (key, stranger)) in passed.iter_mut().zip(strangers) {
                *passed += u32::from(check(&Secret::new(key), now, &stranger, iss, timestamp).is_some());
            }
        }
        assert!(passed.iter().all(|passed| *passed <= 4), "{passed:?}");
    }

    proptest! {
        /// Any options, any client: what comes back is what was offered, the MSS at most and never far below.
        #[test]
        fn options_come_back(handshake in handshake(), offered in options(), now in time(), age in 0_u64..33_000) {
            let iss = make(&secret(), now, &handshake, &offered);
            let later = now + Duration::from_millis(age);
            let found = check(&secret(), later, &handshake, iss, offered.timestamp).unwrap();
            prop_assert_eq!(SynOptions { mss: offered.mss, ..found }, offered);
            prop_assert_eq!(found.mss.is_some(), offered.mss.is_some());
            if let (Some(found), Some(offered)) = (found.mss, offered.mss) {
                prop_assert!(found <= offered.max(88));
                prop_assert!(offered >= 1220 || found >= 88);
                prop_assert!(!(1220..=1500).contains(&offered) || found + 140 >= offered);
            }
        }

        /// RFC 6528: for one client the number rises with the clock, by 2²³ in a period, whatever it offers.
        #[test]
        fn the_number_rises_with_the_clock(handshake in handshake(), offered in options(), now in time(), periods in 2_u32..200) {
            let later = now + Duration::from_nanos(u64::from(periods) * (STEP << LOW_BITS));
            let first = make(&secret(), now, &handshake, &offered);
            let second = make(&secret(), later, &Handshake { irs: Seq(1), ..handshake }, &offered);
            let rise = i64::from(second.since(first));
            prop_assert!((rise - (i64::from(periods) << LOW_BITS)).abs() < 1 << LOW_BITS, "rose by {rise}");
        }
    }

    /// Forged at random: as rare as documented.
    #[test]
    fn guesses_seldom_succeed() {
        let handshake = Handshake {
            client: "192.0.2.1:7".parse().unwrap(),
            irs: Seq(9),
            announced_scale: 7,
            maker: Maker::Daemon,
        };
        let now = Time::from_millis(99_000);
        let good = (0..1_u32 << 20)
            .filter(|guess| {
                let iss = Seq(guess.wrapping_mul(0x9e37_79b1));
                check(&secret(), now, &handshake, iss, None).is_some()
            })
            .count();
        assert!(good <= 4, "{good} of 2²⁰ guesses");
    }
}
