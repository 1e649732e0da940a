//! Initial sequence numbers from which a set-up can be continued without state: SYN cookies that keep all options.
//!
//! Every SYN-ACK carries one, so that the same check serves a flood of SYNs (no state was kept) and a restart of this
//! daemon (it was lost). The number is clock-driven and keyed (RFC 9293 MUST-8, MUST-9; RFC 6528):
//!
//! ```text
//! F(client) + [ period mod 2³ : 3 bits | (MAC(client, its ISN, period) + answer) mod 2²⁹ : 29 bits ]
//! ```
//!
//! A period is 2²⁵ µs (33.6 s), so that the whole advances by one in 62.5 ns and comes round in 268 s, more than two minutes, the longest that a
//! segment lives: Linux's numbers advance as fast. At RFC 6528's 4 µs there would be six bits less to tell clients' numbers by. The numbers of this
//! period and the one before are good: a cookie lives 33.6 to 67.1 s. The answer is fourteen bits: who made it (1) and the window scale announced
//! (4), which the daemon's successor does not know otherwise, and the client's options: the class of its MSS (3), its window
//! scale (4), SACK-permitted (1), timestamps (1); nothing is lost but an MSS between two classes. All are of one number space, so that no answer is ever
//! read as another one.
//!
//! **Strength.** For one client and ISN, 2 periods × 2⁹ options of 2³² numbers are good, for each of at most three
//! scales that this proxy may have announced (all fifteen, for one lifetime after the start): a blind guess
//! succeeds once in 2²¹ to 2²³ tries (2¹⁹), and guesses are counted only while cookies are taken at all: for one lifetime after a SYN was answered without state, or after the start.
//! That one of a client's *later* numbers, which acknowledge the same, passes for its first one is a matter of the 29 bits alone: of a client with
//! timestamps once in 70,000 (15 scales, two makers, 2⁸ options), of another one once in 140,000; once in 2²¹ where maker and scale are known.

use std::net::SocketAddr;
use std::time::Duration;

use packet::{Seq, SynOptions, Time};

use crate::secret::Secret;

/// Bits of a number below the count of periods.
const LOW_BITS: u32 = 29;
const LOW: u32 = (1 << LOW_BITS) - 1;
/// A period, nanoseconds.
const PERIOD: u64 = 1000 << 25;
/// Periods whose numbers are good: the present one and one before.
const GOOD_PERIODS: u64 = 2;
/// Bits that say which options were offered, and which window scale was announced.
const OPTION_BITS: u32 = 9;
const SCALE_BITS: u32 = 4;
/// MSS classes, ascending: what common links and tunnels give. Zero: none offered. The lowest is the least that is ever sent.
const MSS: [u16; 8] = [0, 88, 536, 1220, 1360, 1440, 1460, 8960];
/// No window scale offered; the largest that there is (RFC 7323 §2.3).
const NO_SCALE: u32 = 15;
const MAX_SCALE: u8 = 14;

/// No cookie is good for longer than this.
pub(crate) const LIFETIME: Duration = Duration::from_nanos(GOOD_PERIODS * PERIOD);

/// What a cookie is bound to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handshake {
    pub(crate) client: SocketAddr,
    /// The client's initial sequence number.
    pub(crate) irs: Seq,
}

/// What a cookie says of the SYN's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) maker: Maker,
    /// The window scale that the client is, or was, told, if it offered any.
    pub(crate) announced_scale: u8,
    /// The client's.
    pub(crate) options: SynOptions,
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
    now.as_nanos() / PERIOD
}

/// The number of this answer.
pub(crate) fn make(secret: &Secret, now: Time, handshake: &Handshake, answer: &Answer) -> Seq {
    let period = period(now);
    let low = mac(secret, handshake, period).wrapping_add(encode(answer)) & LOW;
    Seq(((period as u32) << LOW_BITS | low).wrapping_add(secret.sequence_offset(handshake.client)))
}

/// The answer of this handshake whose number is `iss`, if there was one that is not too old. `timestamp`: the TSval
/// of the client's segment, if it has one.
pub(crate) fn check(
    secret: &Secret,
    now: Time,
    handshake: &Handshake,
    iss: Seq,
    timestamp: Option<u32>,
) -> Option<Answer> {
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
    secret.cookie((handshake.client, handshake.irs, period)) as u32 & LOW
}

fn encode(answer: &Answer) -> u32 {
    let maker = u32::from(answer.maker == Maker::Program);
    let scale = u32::from(answer.announced_scale.min(MAX_SCALE));
    (maker << SCALE_BITS | scale) << OPTION_BITS | encode_options(&answer.options)
}

fn encode_options(options: &SynOptions) -> u32 {
    let class = options.mss.map_or(0, |mss| MSS.partition_point(|class| *class <= mss).max(2) - 1);
    let scale = options.window_scale.map_or(NO_SCALE, |scale| u32::from(scale.min(MAX_SCALE)));
    let flags = u32::from(options.sack_permitted) << 1 | u32::from(options.timestamp.is_some());
    (class as u32) << 6 | scale << 2 | flags
}

fn decode(data: u32, timestamp: Option<u32>) -> Option<Answer> {
    let maker = match data >> (OPTION_BITS + SCALE_BITS) {
        0 => Maker::Daemon,
        1 => Maker::Program,
        _ => return None,
    };
    let scale = (data >> OPTION_BITS) as u8 & ((1 << SCALE_BITS) - 1);
    let options = decode_options(data & ((1 << OPTION_BITS) - 1), timestamp)?;
    (scale <= MAX_SCALE).then_some(Answer { maker, announced_scale: scale, options })
}

/// A client that negotiated timestamps sends them in each segment (RFC 7323 §3.2), another one in none.
fn decode_options(data: u32, timestamp: Option<u32>) -> Option<SynOptions> {
    let mss = *MSS.get((data >> 6) as usize)?;
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

    const TOLD: Answer = Answer {
        maker: Maker::Daemon,
        announced_scale: 7,
        options: SynOptions { mss: None, window_scale: None, sack_permitted: false, timestamp: None },
    };

    fn somebody() -> Handshake {
        Handshake { client: "192.0.2.1:7".parse().unwrap(), irs: Seq(9) }
    }

    fn handshake() -> impl Strategy<Value = Handshake> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
            any::<[u8; 16]>().prop_map(std::net::IpAddr::from)
        ];
        (address, any::<u16>(), any::<u32>()).prop_map(|(address, port, irs)| Handshake {
            client: SocketAddr::new(address, port),
            irs: Seq(irs),
        })
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let maker = prop_oneof![Just(Maker::Daemon), Just(Maker::Program)];
        (maker, 0_u8..15, options()).prop_map(|(maker, announced_scale, options)| Answer {
            maker,
            announced_scale,
            options,
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

    /// Every answer, not a sample: 2 makers × 15 scales announced × 8 classes × 16 scales offered × SACK × timestamps. Each comes back as itself.
    #[test]
    fn no_answer_is_read_as_another() {
        let now = Time::from_millis(123_456);
        let (classes, scales) = (MSS.map(|mss| (mss > 0).then_some(mss)), (0..15).map(Some).chain([None]));
        let makers = (0..15).flat_map(|scale| [(Maker::Daemon, scale), (Maker::Program, scale)]);
        let offers = scales.flat_map(|scale| classes.map(|mss| (scale, mss)));
        let mut seen = 0;
        for ((window_scale, mss), (maker, announced_scale)) in
            offers.flat_map(|offer| makers.clone().map(move |maker| (offer, maker)))
        {
            for (sack_permitted, timestamp) in
                [(false, None), (false, Some(5)), (true, None), (true, Some(5))]
            {
                let options = SynOptions { mss, window_scale, sack_permitted, timestamp };
                let answer = Answer { maker, announced_scale, options };
                let iss = make(&secret(), now, &somebody(), &answer);
                assert_eq!(check(&secret(), now, &somebody(), iss, timestamp), Some(answer));
                seen += 1;
            }
        }
        assert_eq!(seen, 30 << OPTION_BITS);
    }

    /// Of another client, of another ISN, of another key: refused, but for what chance lets pass (of one maker and scale any of 2⁸ options
    /// is good, so one in 2²¹ of this period). Old, or with timestamps where none were offered: refused always. The same 4096 cases each time.
    #[test]
    fn others_are_refused() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let cases = (handshake(), handshake(), answer(), time(), 68_000_u64..15_000_000);
        let mut passed = [0; 3];
        for _ in 0..4096 {
            let (handshake, other, answer, now, age) = cases.new_tree(&mut runner).unwrap().current();
            let iss = make(&secret(), now, &handshake, &answer);
            let timestamp = answer.options.timestamp;
            let old = now + Duration::from_millis(age);
            assert_eq!(check(&secret(), old, &handshake, iss, timestamp), None);
            let stripped = if timestamp.is_some() { None } else { Some(1) };
            assert_eq!(check(&secret(), now, &handshake, iss, stripped), None);
            let reborn = Handshake { irs: handshake.irs + 1, ..handshake };
            let strangers = [(KEY, other), (KEY, reborn), ([1; 16], handshake)];
            for (passed, (key, stranger)) in passed.iter_mut().zip(strangers) {
                let found = check(&Secret::new(key), now, &stranger, iss, timestamp);
                let same = |found: Answer| Answer { options: answer.options, ..found } == answer;
                *passed += u32::from(found.is_some_and(same));
            }
        }
        assert_eq!(passed, [0; 3]);
    }

    proptest! {
        /// Any options, any client: what comes back is what was offered, the MSS at most and never far below.
        #[test]
        fn options_come_back(handshake in handshake(), answer in answer(), now in time(), age in 0_u64..33_000) {
            let (iss, offered) = (make(&secret(), now, &handshake, &answer), answer.options);
            let later = now + Duration::from_millis(age);
            let found = check(&secret(), later, &handshake, iss, offered.timestamp).unwrap();
            prop_assert_eq!(Answer { options: offered, ..found }, answer);
            let found = found.options;
            prop_assert_eq!(SynOptions { mss: offered.mss, ..found }, offered);
            prop_assert_eq!(found.mss.is_some(), offered.mss.is_some());
            if let (Some(found), Some(offered)) = (found.mss, offered.mss) {
                prop_assert!(found <= offered.max(88));
                prop_assert!(offered >= 1220 || found >= 88);
                prop_assert!(!(1220..=1500).contains(&offered) || found + 140 >= offered);
            }
        }

        /// RFC 6528: for one client the number rises with the clock, by 2²⁹ in a period, whatever it offers; it comes round after eight.
        #[test]
        fn the_number_rises_with_the_clock(handshake in handshake(), answer in answer(), now in time(), periods in 1_u32..=3) {
            let later = now + Duration::from_nanos(u64::from(periods) * PERIOD);
            let first = make(&secret(), now, &handshake, &answer);
            let second = make(&secret(), later, &Handshake { irs: Seq(1), ..handshake }, &answer);
            let rise = i64::from(second.since(first));
            prop_assert!((rise - (i64::from(periods) << LOW_BITS)).abs() < 1 << LOW_BITS, "rose by {rise}");
        }
    }

    /// In one flight every segment acknowledges the same: a later one that comes first must not look like the first.
    #[test]
    fn later_numbers_seldom_look_like_the_first() {
        let now = Time::from_millis(99_000);
        for (timestamp, most) in [(None, 16), (Some(5), 32)] {
            let answer = Answer { options: SynOptions { timestamp, ..TOLD.options }, ..TOLD };
            let iss = make(&secret(), now, &somebody(), &answer);
            let looks_first = |sent: &u32| {
                let later = Handshake { irs: somebody().irs + *sent, ..somebody() };
                let found = check(&secret(), now, &later, iss, timestamp);
                found.is_some_and(|answer| timestamp.is_some() || answer.maker == Maker::Daemon)
            };
            let passed = (1..1_u32 << 20).filter(looks_first).count();
            assert!(passed <= most, "{passed} of 2²⁰ numbers with {timestamp:?}");
        }
    }

    /// Forged at random, for one scale that was announced: as rare as documented.
    #[test]
    fn guesses_seldom_succeed() {
        let now = Time::from_millis(99_000);
        let is_good = |guess: &u32| {
            let iss = Seq(guess.wrapping_mul(0x9e37_79b1));
            let found = check(&secret(), now, &somebody(), iss, None);
            found.is_some_and(|answer| answer == Answer { options: answer.options, ..TOLD })
        };
        let good = (0..1_u32 << 20).filter(is_good).count();
        assert!(good <= 4, "{good} of 2²⁰ guesses");
    }
}
