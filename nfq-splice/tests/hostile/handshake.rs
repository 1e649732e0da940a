//! Handshakes: SYN and SYN-ACK, their options, repetitions.

use std::time::Duration;

use packet::{Flags, SegmentBuilder, Seq, SynOptions};

use crate::proxy::{ISN, Proxy, REQUEST, SYN_ACK, backend, data, syn};

#[test]
fn data_on_a_syn_is_not_acknowledged() {
    let mut proxy = Proxy::new();
    let sent = proxy.receive(&SegmentBuilder { payload: REQUEST, ..syn(1) });
    assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, SYN_ACK, ISN + 1));
    let iss = sent[0].seq;
    let routed = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!((routed[0].to, routed[0].flags, routed[0].seq), (backend(11), Flags::SYN, ISN));
}

#[test]
fn a_wrong_acknowledgement_in_the_handshake_is_reset_and_changes_nothing() {
    let mut proxy = Proxy::new();
    let iss = proxy.receive(&syn(1))[0].seq;
    for wrong in [iss, iss + 2, Seq(0), iss - 1] {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(wrong), ..data(1, 0, REQUEST) });
        assert_eq!((sent.len(), sent[0].flags, sent[0].seq), (1, Flags::RST, wrong));
    }
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    assert_eq!(sent[0].to, backend(11));
}

#[test]
fn a_repeated_syn_gets_the_same_answer_another_one_a_challenge() {
    let mut proxy = Proxy::new();
    let first = proxy.receive(&syn(1));
    assert_eq!(proxy.receive(&syn(1)), first);
    proxy.now = proxy.now + Duration::from_millis(10);
    let other = SegmentBuilder { seq: Seq(9), ..syn(1) };
    let challenge = proxy.receive(&other);
    assert_eq!((challenge[0].flags, challenge[0].ack), (Flags::ACK, ISN + 1));
    assert_eq!(challenge[0].seq, first[0].seq + 1);
    // A client that has begun anew does not know the old connection.
    proxy.receive(&SegmentBuilder { seq: ISN + 1, flags: Flags::RST, syn: None, ..syn(1) });
    let opened = proxy.receive(&other);
    assert_eq!((opened[0].flags, opened[0].ack, proxy.connections()), (SYN_ACK, Seq(10), 1));
}

#[test]
fn a_syn_ack_is_repeated_then_the_client_forgotten() {
    let mut proxy = Proxy::new();
    proxy.receive(&syn(1));
    let sent = proxy.pass(Duration::from_secs(60));
    assert!((2..8).contains(&sent.len()) && sent.iter().all(|sent| sent.flags == SYN_ACK), "{sent:?}");
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn options_of_a_syn_are_offered_back_as_far_as_they_were_offered() {
    let all = SynOptions { mss: Some(1400), window_scale: Some(15), sack_permitted: true, timestamp: None };
    for (offered, timestamps) in [(SynOptions::default(), None), (all, Some((5, 0)))] {
        let mut proxy = Proxy::new();
        let sent = proxy.receive(&SegmentBuilder { syn: Some(offered), timestamps, ..syn(1) });
        let answered = sent[0].options;
        assert_eq!(answered.window_scale.is_some(), offered.window_scale.is_some());
        assert_eq!(answered.sack_permitted, offered.sack_permitted);
        assert_eq!(answered.timestamp.is_some(), timestamps.is_some());
        let iss = sent[0].seq;
        let to_backend = proxy.receive(&SegmentBuilder {
            ack: Some(iss + 1),
            timestamps: timestamps.map(|_| (6, answered.timestamp.unwrap_or(0))),
            ..data(1, 0, REQUEST)
        });
        assert_eq!(to_backend[0].options.window_scale, offered.window_scale.map(|_| 14));
        assert_eq!(to_backend[0].options.mss, offered.mss);
    }
}
