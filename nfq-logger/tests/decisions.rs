//! What becomes of packets, case by case.

mod common;

use std::time::Duration;

use cluster::control::ToLogger;
use common::{ACK, Bench, FIN, JUDGE, JUDGEMENT, RST, SYN, SYN_ACK, client, flow, held, segment};
use nfq_logger::{Arrival, Decision, Limits, Released, fence_record};
use packet::Flags as Tcp;
use segment_log::Flags;

fn judged() -> Bench {
    let mut bench = Bench::new(Limits::default());
    bench.engine.handle_control(JUDGE, &ToLogger::Judge);
    bench
}

const PLAIN: Decision = Decision::Accept(Flags::EMPTY);
const BACK: Decision = Decision::Accept(Flags::FROM_BACKEND);
const REOPENED: Decision = Decision::Accept(Flags::UNFENCED);

#[test]
fn an_exchange_is_logged_and_passes() {
    let mut bench = judged();
    let f = flow(1000, 1);
    assert_eq!(bench.forth(f, 0, SYN, b""), PLAIN);
    assert_eq!(bench.back(f, 500, SYN_ACK, b""), BACK);
    assert_eq!(bench.forth(f, 1, ACK, b"GET"), PLAIN);
    assert_eq!(bench.back(f, 501, ACK, b"200"), BACK);
    assert_eq!(bench.forth(f, 1, ACK, b"GET"), Decision::Accept(Flags::RETRANSMISSION));
    let out_of_order = bench.back(f, 510, ACK, b"later");
    assert_eq!(out_of_order, Decision::Accept(Flags::FROM_BACKEND | Flags::OUT_OF_ORDER));
    assert_eq!(bench.forth(f, 4, FIN, b""), PLAIN);
    assert_eq!(bench.counter("segments"), 7);
}

#[test]
fn backends_come_and_stay_while_they_are_used() {
    let mut bench = judged();
    let (old, new) = (flow(1000, 1), flow(1001, 7));
    assert_eq!(bench.forth(old, 0, SYN, b""), PLAIN);
    assert_eq!(bench.forth(new, 0, SYN, b""), Decision::Drop);
    assert_eq!(bench.engine.backends_in_use().into_iter().collect::<Vec<_>>(), [old.backend]);
    // As a reload does: what the configuration names, and what is in use.
    let wanted = bench.engine.backends_in_use().into_iter().chain([new.backend]);
    bench.engine.set_backends(wanted);
    assert_eq!(bench.forth(new, 0, SYN, b""), PLAIN);
    assert_eq!(bench.back(old, 500, SYN_ACK, b""), BACK);
    assert_eq!(bench.forth(flow(1002, 2), 0, SYN, b""), Decision::Drop);
}

#[test]
fn what_is_no_segment_of_ours_is_dropped_and_counted() {
    let mut bench = judged();
    let good = segment(client(1), common::backend(1), 1, ACK, b"x");
    let mut fragment = good.clone();
    fragment[6] = 0x20;
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    for bytes in
        [&[][..], &[0x45; 19], &good[..30], &fragment, b"not a packet at all, but long enough for one"]
    {
        assert_eq!(bench.packet(bytes), Decision::Drop);
    }
    assert_eq!(bench.counter("unparsable"), 5);
    assert_eq!(bench.packet(&wrong), Decision::Drop);
    assert_eq!(bench.counter("bad_checksum"), 1);
    for arrival in [
        Arrival { id: 1, gso: true, verify: true, packet: &wrong },
        Arrival { id: 2, gso: false, verify: false, packet: &wrong },
    ] {
        let gso = Flags::EMPTY.with(Flags::GSO, arrival.gso);
        let decision = bench.engine.handle_packet(bench.now, arrival);
        assert!(matches!(decision, Decision::Accept(flags) if flags.contains(gso)));
    }
    assert_eq!(bench.packet(&segment(client(1), client(2), 1, ACK, b"")), Decision::Drop);
    assert_eq!(bench.counter("not_ours"), 1);
    for flags in [SYN.union(Tcp::FIN), SYN.union(RST), Tcp(0), Tcp::FIN, Tcp::PSH] {
        assert_eq!(bench.forth(flow(1, 1), 1, flags, b""), Decision::Drop);
    }
    assert_eq!(bench.counter("nonsense"), 5);
}

#[test]
fn without_a_judge_fin_and_reset_pass() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.back(flow(1, 1), 9, FIN, b"end"), BACK);
    assert!(matches!(bench.back(flow(1, 1), 9, RST, b""), Decision::Accept(_)));
    assert_eq!(bench.engine.poll_timeout(), None);
}

#[test]
fn the_judge_decides_on_fin_and_reset() {
    let mut bench = judged();
    let fin = held(bench.back(flow(1, 1), 9, FIN, b"end"));
    let reset = held(bench.back(flow(2, 1), 9, RST, b""));
    assert_ne!(fin, reset);
    assert_eq!(bench.released(), []);
    bench.engine.handle_control(JUDGE, &ToLogger::Suppress { hold: reset });
    bench.engine.handle_control(JUDGE, &ToLogger::Release { hold: fin });
    bench.engine.handle_control(JUDGE, &ToLogger::Release { hold: fin });
    assert_eq!(bench.released(), [Released { id: 2, pass: false }, Released { id: 1, pass: true }]);
    assert_eq!(bench.counter("judgements_unknown"), 1);
}

#[test]
fn data_passes_while_a_fin_is_held_and_its_repetitions_do_not() {
    let mut bench = judged();
    bench.back(flow(1, 1), 100, ACK, b"first");
    let hold = held(bench.back(flow(1, 1), 105, FIN, b"end"));
    assert_eq!(bench.back(flow(1, 1), 105, FIN, b"end"), Decision::Drop);
    assert_eq!(bench.back(flow(1, 1), 108, FIN, b""), Decision::Drop);
    let repeated = bench.back(flow(1, 1), 105, ACK, b"end");
    assert_eq!(repeated, Decision::Accept(Flags::FROM_BACKEND | Flags::RETRANSMISSION));
    assert_eq!(bench.counter("held_duplicates"), 2);
    bench.engine.handle_control(JUDGE, &ToLogger::Suppress { hold });
    held(bench.back(flow(1, 1), 108, FIN, b""));
}

#[test]
fn a_repeated_fin_that_fills_a_hole_is_held_too() {
    let mut bench = judged();
    bench.back(flow(1, 1), 100, ACK, b"first");
    // Ten bytes before it were lost on the way to the logger.
    held(bench.back(flow(1, 1), 115, FIN, b""));
    held(bench.back(flow(1, 1), 105, FIN, b"0123456789"));
    assert_eq!(bench.back(flow(1, 1), 105, FIN, b"0123456789"), Decision::Drop);
}

#[test]
fn what_is_not_judged_in_time_passes() {
    let mut bench = judged();
    held(bench.back(flow(1, 1), 1, FIN, b""));
    bench.now = bench.now + Duration::from_millis(500);
    held(bench.back(flow(2, 1), 1, FIN, b""));
    let due = bench.engine.poll_timeout().unwrap();
    assert_eq!(due, bench.now + Duration::from_millis(1500));
    bench.now = due;
    assert_eq!(bench.engine.handle_timeout(due), 1);
    assert_eq!(bench.released(), [Released { id: 1, pass: true }]);
    assert_eq!(bench.engine.handle_timeout(due + JUDGEMENT), 1);
    assert_eq!(bench.engine.poll_timeout(), None);
}

#[test]
fn without_the_last_judge_all_held_pass() {
    let mut bench = judged();
    bench.engine.handle_control(2, &ToLogger::Judge);
    held(bench.back(flow(1, 1), 1, FIN, b""));
    held(bench.back(flow(2, 1), 1, RST, b""));
    bench.engine.handle_disconnect(JUDGE);
    bench.engine.handle_disconnect(77);
    assert_eq!(bench.released(), []);
    bench.engine.handle_disconnect(2);
    assert_eq!(bench.released().len(), 2);
    assert!(matches!(bench.back(flow(3, 1), 1, FIN, b""), Decision::Accept(_)));
}

#[test]
fn too_many_fins_wait_for_their_repetition() {
    let mut bench = Bench::new(Limits { held: 2, ..Limits::default() });
    bench.engine.handle_control(JUDGE, &ToLogger::Judge);
    let first = held(bench.back(flow(1, 1), 1, FIN, b""));
    held(bench.back(flow(2, 1), 1, FIN, b""));
    assert_eq!(bench.back(flow(3, 1), 1, FIN, b""), Decision::Drop);
    assert_eq!(bench.counter("held_overflow"), 1);
    bench.engine.handle_control(JUDGE, &ToLogger::Release { hold: first });
    held(bench.back(flow(3, 1), 1, FIN, b""));
}

#[test]
fn nothing_of_a_fenced_flow_passes_until_it_is_opened_anew() {
    let mut bench = judged();
    let (f, other) = (flow(1, 1), flow(1, 2));
    bench.forth(f, 100, SYN, b"");
    bench.back(f, 500, SYN_ACK, b"");
    held(bench.back(f, 501, FIN, b"half"));
    bench.engine.handle_control(JUDGE, &ToLogger::Fence(f));
    assert_eq!(bench.released(), [Released { id: 3, pass: false }]);
    for flags in [ACK, FIN, SYN_ACK, RST] {
        assert_eq!(bench.back(f, 501, flags, b""), Decision::Drop);
    }
    // Logged, because nobody else will know what the client has said.
    assert_eq!(bench.forth(f, 101, ACK, b"more"), Decision::Swallow(Flags::SWALLOWED));
    assert_eq!(bench.forth(f, 105, FIN, b"end"), Decision::Swallow(Flags::SWALLOWED));
    assert_eq!(bench.back(f, 501, ACK, b"late"), Decision::Drop);
    for (flags, data) in [(ACK, &b""[..]), (SYN_ACK, b""), (SYN_ACK, b"data")] {
        assert_eq!(bench.forth(f, 101, flags, data), Decision::Drop);
    }
    // The same client goes on with the alternate.
    assert_eq!(bench.forth(other, 90, SYN, b""), PLAIN);
    assert_eq!(bench.back(other, 7, SYN_ACK, b""), BACK);
    assert_eq!(bench.forth(f, 4_000_000, SYN, b""), REOPENED);
    assert_eq!(bench.back(f, 9, SYN_ACK, b""), BACK);
    assert_eq!(bench.counter("fences_lifted"), 1);
    assert_eq!((bench.counter("fenced_dropped"), bench.counter("fenced_logged")), (10, 2));
}

#[test]
fn a_fenced_backend_may_be_reset() {
    let mut bench = judged();
    bench.engine.handle_control(JUDGE, &ToLogger::Fence(flow(1, 1)));
    assert_eq!(bench.forth(flow(1, 1), 9, RST, b""), Decision::PassUnlogged);
    assert_eq!(bench.forth(flow(1, 1), 9, RST, b"data"), Decision::Drop);
}

#[test]
fn the_fenced_handshake_repeated_is_no_new_opening() {
    let mut bench = judged();
    let f = flow(1, 1);
    bench.forth(f, 100, SYN, b"");
    bench.engine.handle_control(JUDGE, &ToLogger::Fence(f));
    assert_eq!(bench.forth(f, 100, SYN, b""), Decision::Drop);
    assert_eq!(bench.forth(f, 101, SYN, b""), REOPENED);
}

#[test]
fn a_replay_of_everything_comes_back_with_the_same_number() {
    let mut bench = judged();
    let f = flow(1, 1);
    bench.forth(f, 100, SYN, b"");
    bench.back(f, 500, SYN_ACK, b"");
    bench.forth(f, 101, ACK, b"request");
    bench.engine.handle_control(JUDGE, &ToLogger::Fence(f));
    assert_eq!(bench.forth(f, 100, SYN, b""), REOPENED);
}

/// The answer was lost behind the logger, and the backend's process ended meanwhile: a proxy that goes on with the handshake would
/// have a connection of which the report knows nothing.
#[test]
fn a_handshake_whose_answer_nobody_acknowledged_is_not_resumed() {
    let mut bench = judged();
    let f = flow(1, 1);
    bench.forth(f, 100, SYN, b"");
    bench.back(f, 500, SYN_ACK, b"");
    bench.engine.handle_control(JUDGE, &ToLogger::Fence(f));
    assert_eq!(bench.forth(f, 100, SYN, b""), Decision::Drop);
    // Until the proxy has heard of the failure.
    assert_eq!(bench.forth(f, 101, RST, b""), Decision::PassUnlogged);
    assert_eq!(bench.forth(f, 100, SYN, b""), REOPENED);
}

/// A logger that dies forgets its tables, not what it logged. Between its return and the transactionalizer's, what passed into
/// the fence would be run by a backend of which the report knows nothing.
#[test]
fn the_next_logger_keeps_the_fences_in_the_log() {
    let (fenced, other, reopened) = (flow(1, 1), flow(2, 1), flow(3, 1));
    let mut bench = judged();
    for each in [fenced, reopened] {
        bench.engine.restore(Flags::FENCED, &fence_record(each));
    }
    let syn = segment(reopened.client, reopened.backend, 7, SYN, b"");
    bench.engine.restore(Flags::UNFENCED, &syn);
    bench.engine.restore(Flags::FENCED, b"nothing that this program wrote");
    assert_eq!(bench.engine.fenced_flows(), [fenced]);
    assert_eq!(bench.forth(fenced, 101, ACK, b"more"), Decision::Swallow(Flags::SWALLOWED));
    assert_eq!(bench.back(fenced, 501, ACK, b"late"), Decision::Drop);
    assert_eq!(bench.forth(other, 101, ACK, b"more"), PLAIN);
    assert_eq!(bench.forth(reopened, 8, ACK, b"more"), PLAIN);
    assert_eq!(bench.counter("fences_restored"), 2);
    // Told again, or not: it is lifted as any other.
    bench.engine.handle_control(JUDGE, &ToLogger::Fence(fenced));
    assert_eq!(bench.forth(fenced, 100, SYN, b""), REOPENED);
    assert_eq!(bench.back(fenced, 9, SYN_ACK, b""), BACK);
}

#[test]
fn restored_fences_stay_bounded() {
    let mut bench = Bench::new(Limits { fences: 2, ..Limits::default() });
    (0..5).for_each(|port| bench.engine.restore(Flags::FENCED, &fence_record(flow(port, 1))));
    assert_eq!(bench.engine.fenced_flows(), [flow(3, 1), flow(4, 1)]);
    assert_eq!(bench.counter("fences_forgotten"), 3);
}

#[test]
fn a_syn_that_the_backend_does_not_accept_changes_nothing() {
    let mut bench = judged();
    let f = flow(1, 1);
    bench.forth(f, 100, SYN, b"");
    bench.back(f, 500, SYN_ACK, b"");
    bench.forth(f, 101, ACK, b"request");
    assert_eq!(bench.forth(f, 70_000, SYN, b""), PLAIN);
    assert_eq!(bench.back(f, 501, ACK, b""), BACK);
    assert_eq!(bench.forth(f, 101, ACK, b"request"), Decision::Accept(Flags::RETRANSMISSION));
    assert_eq!(bench.forth(f, 108, ACK, b"next"), PLAIN);
}

#[test]
fn a_reused_port_begins_anew() {
    let mut bench = judged();
    let f = flow(1, 1);
    bench.forth(f, 100, SYN, b"");
    bench.back(f, 500, SYN_ACK, b"");
    bench.forth(f, 101, ACK, b"request");
    // `segment` acknowledges 1, that is a SYN of number 0.
    assert_eq!(bench.forth(f, 0, SYN, b""), PLAIN);
    assert_eq!(bench.back(f, 0x9000_0000, SYN_ACK, b""), BACK);
    assert_eq!(bench.forth(f, 1, ACK, b"request"), PLAIN);
    assert_eq!(bench.back(f, 0x9000_0001, ACK, b"response"), BACK);
}
