//! What is sent, and again, to receivers of any windows and acknowledgements.

use super::*;
use packet::Reassembly;
use proptest::prelude::*;

const RTO: Duration = Duration::from_millis(200);

fn drain(sender: &mut Sender, now: Time) -> Vec<(Seq, Vec<u8>, bool)> {
    std::iter::from_fn(|| sender.poll(now).map(|piece| (piece.seq, piece.data.to_vec(), piece.fin))).collect()
}

#[test]
fn sends_within_the_window_and_probes_a_closed_one() {
    let mut now = Time::from_millis(0);
    let mut sender = Sender::new(Seq(u32::MAX), vec![7; 3000], true, 1000, 1500, RTO);
    let sent = drain(&mut sender, now);
    assert_eq!(sent.iter().map(|piece| piece.1.len()).collect::<Vec<_>>(), [1000, 500]);
    sender.handle_ack(now, Seq(u32::MAX) + 1500, 0);
    assert!(drain(&mut sender, now).is_empty());
    now = now + RTO;
    sender.handle_timeout(now);
    assert_eq!(drain(&mut sender, now), [(Seq(1499), vec![7], false)]);
    sender.handle_ack(now, Seq(1500), 60_000);
    while !sender.is_done() {
        let (seq, data, fin) = drain(&mut sender, now).pop().unwrap();
        sender.handle_ack(now, seq + data.len() as u32 + u32::from(fin), 60_000);
    }
    assert_eq!(sender.deadline(), None);
}

#[test]
fn an_acknowledgement_may_cover_what_follows_but_not_what_was_never_sent() {
    let now = Time::from_millis(0);
    let mut sender = Sender::new(Seq(0), vec![1; 3000], false, 1000, 1000, RTO);
    assert_eq!(drain(&mut sender, now).len(), 1);
    sender.handle_ack(now, Seq(9000), 9000);
    assert_eq!(sender.unacknowledged(), Seq(0));
    sender.handle_ack(now, Seq(1000), 9000);
    assert_eq!(drain(&mut sender, now).len(), 2);
    sender.handle_ack(now, Seq(9000), 9000);
    assert!(sender.is_done());
}

/// What the receiver has no room for yet stays here, until others have shown that it has.
#[test]
fn only_what_others_have_sent_opens_the_window() {
    let now = Time::from_millis(0);
    let mut sender = Sender::new(Seq(0), vec![1; 1000], false, 1000, 1000, RTO);
    assert_eq!(drain(&mut sender, now).len(), 1);
    sender.append(&[2; 500]);
    sender.append_known(&[]);
    assert_eq!(drain(&mut sender, now), []);
    sender.append_known(&[3; 10]);
    assert_eq!(drain(&mut sender, now)[0].1.len(), 510);
}

#[test]
fn what_others_have_passed_may_be_acknowledged() {
    let now = Time::from_millis(0);
    let mut sender = Sender::new(Seq(0), vec![1; 5000], false, 1000, 1000, RTO);
    assert_eq!(drain(&mut sender, now).len(), 1);
    sender.note_passed(Seq(3000));
    sender.handle_ack(now, Seq(4000), 1000);
    assert_eq!(sender.unacknowledged(), Seq(0));
    sender.handle_ack(now, Seq(3000), 1000);
    assert_eq!(drain(&mut sender, now)[0].0, Seq(3000));
}

#[test]
fn three_duplicates_repeat_at_once() {
    let now = Time::from_millis(0);
    let mut sender = Sender::new(Seq(0), vec![1; 5000], false, 1000, 9000, RTO);
    assert_eq!(drain(&mut sender, now).len(), 5);
    for _ in 0..3 {
        sender.handle_ack(now, Seq(0), 9000);
    }
    assert_eq!(drain(&mut sender, now)[0].0, Seq(0));
}

fn logged(from: u64, bytes: usize) -> Rest {
    let address = "10.0.0.1:80".parse().unwrap();
    let flow = cluster::control::Flow { client: address, backend: address };
    let logged = cluster::control::LoggedRequest { flow, client_isn: 7, from, bytes: bytes as u64 };
    Rest { logger: "l".to_owned(), logged }
}

#[test]
fn the_rest_comes_in_pieces_and_is_not_held_whole() {
    let (start, first, rest) = (Seq(u32::MAX - 5_000_000), 10_000, 20_000_000);
    let bytes: Vec<u8> = (0..first + rest).map(|i| (i * 31 % 251) as u8).collect();
    let mut now = Time::from_millis(0);
    let mut sender = Sender::new(start, bytes[..first].to_vec(), true, 1400, 3_000_000, RTO);
    sender.set_supply(Supply::new(Some(logged(first as u64, rest))));
    let mut receiver = Reassembly::new(start, 1 << 22);
    let (mut got, mut round, mut fin_seen) = (Vec::new(), 0, false);
    while !sender.is_done() {
        round += 1;
        assert!(round < 10_000, "stuck at {}", got.len());
        let mut sent = drain(&mut sender, now);
        if round % 7 == 0 && !sent.is_empty() {
            sent.remove(0);
        }
        if let Some(asked) = sender.ask(now) {
            let at = asked.logged.from as usize;
            let piece = Ok(bytes[at..at + asked.logged.bytes as usize].to_vec());
            sender.supply(LoggedPiece { logged: asked.logged, bytes: piece }).unwrap();
        }
        for (seq, data, fin) in sent {
            receiver.push(seq, &data, &mut |bytes| got.extend_from_slice(bytes));
            fin_seen |= fin && got.len() == bytes.len();
        }
        sender.handle_ack(now, receiver.next() + u32::from(fin_seen), 3_000_000);
        assert!(sender.bytes.len() < 3 << 20, "{} bytes are held", sender.bytes.len());
        now = now + RTO / 8;
        sender.handle_timeout(now);
    }
    assert!(got == bytes, "other bytes");
    assert_eq!((sender.end_seq(), sender.deadline()), (start + (first + rest) as u32 + 1, None));
}

#[test]
fn a_sender_without_its_next_piece_waits_for_that_only() {
    let now = Time::from_millis(0);
    let supply = Supply::new(Some(logged(0, 10)));
    let mut sender = Sender::new(Seq(0), vec![1; 10], false, 1400, 9000, RTO);
    sender.set_supply(supply);
    assert_eq!(drain(&mut sender, now).len(), 1);
    let asked = sender.ask(now).unwrap();
    sender.handle_ack(now, Seq(10), 9000);
    assert!(drain(&mut sender, now).is_empty() && !sender.is_done());
    let again = sender.deadline().unwrap();
    sender.handle_timeout(again);
    assert_eq!((sender.timeouts(), sender.ask(again)), (0, Some(asked)));
}

proptest! {
    /// Whatever is lost, the receiver gets the stream, given enough rounds.
    #[test]
    fn a_lossy_path_gets_everything(losses in prop::collection::vec(any::<bool>(), 0..60), length in 0_usize..20_000, start in any::<u32>()) {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        let mut sender = Sender::new(Seq(start), bytes.clone(), true, 1000, 8000, RTO);
        let mut receiver = Reassembly::new(Seq(start), 1 << 20);
        let (mut got, mut now, mut losses) = (Vec::new(), Time::from_millis(0), losses.into_iter());
        let mut fin_seen = false;
        for _ in 0..2000 {
            for (seq, data, fin) in drain(&mut sender, now) {
                if losses.next().unwrap_or(false) { continue; }
                receiver.push(seq, &data, &mut |bytes| got.extend_from_slice(bytes));
                fin_seen |= fin && receiver.next() == Seq(start) + length as u32;
                if losses.next().unwrap_or(false) { continue; }
                sender.handle_ack(now, receiver.next() + u32::from(fin_seen), 8000);
            }
            if sender.is_done() { break; }
            if let Some(deadline) = sender.deadline() { now = now.max(deadline); }
            sender.handle_timeout(now);
        }
        prop_assert!(sender.is_done());
        prop_assert_eq!(got, bytes);
    }
}
