//! A client uses its port again while the proxy still has the connection before: rarely a question to the kernel.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "costs/driver.rs"]
mod driver;

use std::time::Duration;

use driver::Driver;
use nfq_splice::{Action, Ended, EntryState, Stage};
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Time};

/// A SYN of the client whose connection is spliced, `after` its splice; what the engine wants.
fn syn_again(driver: &mut Driver, stage: Stage, after: Duration) -> Vec<Action> {
    driver.connect(7);
    driver.now = driver.now + after;
    let syn = SegmentBuilder {
        seq: Seq(5),
        flags: Flags::SYN,
        window: 1000,
        ..SegmentBuilder::new(Driver::client(7), driver.service)
    };
    driver.engine.handle_packet(driver.now, &mut syn.build(), stage);
    std::iter::from_fn(|| driver.engine.poll_action()).collect()
}

/// It answers the new SYN with a SYN-ACK.
fn accepts(actions: &[Action]) -> bool {
    actions.iter().any(|action| match action {
        Action::Send(packet) | Action::SendFirst(packet) => {
            let segment = TcpSegment::parse(packet).unwrap();
            segment.flags().contains(Flags::SYN.union(Flags::ACK)) && segment.ack() == Seq(6)
        }
        _ => false,
    })
}

#[test]
fn a_syn_that_conntrack_knows_nothing_of_is_accepted_at_once() {
    let mut driver = Driver::new("kernel");
    let actions = syn_again(&mut driver, Stage::Fresh, Duration::from_secs(3));
    assert!(accepts(&actions) && actions.len() == 1, "{actions:?}");
    assert_eq!(driver.engine.status().counters["port_reused"], 1);
    assert_eq!(driver.engine.judge_ended(Driver::client(7), (driver.now, driver.now)), Ended::No);
}

/// It may have waited in the queue since before the splice.
#[test]
fn such_a_syn_soon_after_the_splice_proves_nothing() {
    let mut driver = Driver::new("kernel");
    let actions = syn_again(&mut driver, Stage::Fresh, Duration::from_millis(500));
    assert!(matches!(actions.as_slice(), [Action::Inspect { .. }]), "{actions:?}");
    assert_eq!(driver.engine.judge_ended(Driver::client(7), (driver.now, driver.now)), Ended::Perhaps);
}

#[test]
fn a_syn_on_a_known_connection_is_decided_by_its_state() {
    for (state, accepted) in
        [(EntryState::Open, false), (EntryState::Closed, true), (EntryState::Missing, true)]
    {
        let mut driver = Driver::new("kernel");
        let actions = syn_again(&mut driver, Stage::Tracked, Duration::from_secs(3));
        let [Action::Inspect { client, syn }] = actions.as_slice() else { panic!("{actions:?}") };
        driver.engine.handle_entry_state(driver.now, *client, state, syn);
        let actions: Vec<Action> = std::iter::from_fn(|| driver.engine.poll_action()).collect();
        assert_eq!(accepts(&actions), accepted, "{state:?}");
        let judged = driver.engine.judge_ended(*client, (driver.now, driver.now));
        assert_eq!(judged, if accepted { Ended::No } else { Ended::Yes });
        assert_eq!(actions.contains(&Action::Unsplice(*client)), accepted);
    }
}

/// The end of the entry before is told late, when the client has been spliced again: no question to the kernel.
#[test]
fn the_end_of_an_earlier_entry_is_not_that_of_the_present_one() {
    let mut driver = Driver::new("kernel");
    driver.now = driver.now + Duration::from_secs(1);
    let before = driver.now;
    driver.now = driver.now + Duration::from_millis(5);
    driver.connect(7);
    let judge =
        |driver: &Driver, number, begin, end| driver.engine.judge_ended(Driver::client(number), (begin, end));
    assert_eq!(judge(&driver, 7, Time::default(), before), Ended::No);
    assert_eq!(judge(&driver, 7, before, driver.now), Ended::Perhaps);
    assert_eq!(judge(&driver, 8, before, driver.now), Ended::No);
    // Events that came so long after the splice are not of an entry that it replaced.
    let (soon, later) = (driver.now + Duration::from_millis(900), driver.now + Duration::from_millis(1010));
    assert_eq!(judge(&driver, 7, soon, later), Ended::Perhaps);
    assert_eq!(judge(&driver, 7, later, later), Ended::Yes);
}
