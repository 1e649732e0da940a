//! Large requests: the order says where their rest is, pieces go from the log to the proxy.

use cluster::control::{LoggedPiece, LoggedRequest, Rest};

use super::*;

fn logged(port: u16, from: u64) -> LoggedRequest {
    let flow = Flow { client: client(port), backend: backend(1) };
    LoggedRequest { flow, client_isn: 7, from, bytes: 100 }
}

fn ask(bench: &mut Bench, ms: u64, name: &str, logged: LoggedRequest) -> (Vec<ToProxy>, Vec<ToLog>) {
    bench.manager.handle_proxy(at(ms), FromProxy::Read(Rest { logger: name.to_owned(), logged }));
    bench.told(ms)
}

fn answer(bench: &mut Bench, ms: u64, piece: LoggedPiece) -> (Vec<ToProxy>, Vec<ToLog>) {
    bench.manager.handle_log(at(ms), L1, FromLog::Piece(piece));
    bench.told(ms)
}

#[test]
fn the_order_names_the_logger_that_has_the_rest() {
    let mut bench = Bench::new();
    let upload = ConnectionReport { rest: Some(logged(1, 29)), ..report(1, 1) };
    bench.fail(0, false, 1, vec![upload]);
    assert_eq!(bench.order(0).rest, Some(Rest { logger: "l1".to_owned(), logged: logged(1, 29) }));
}

#[test]
fn a_rest_of_another_connection_is_not_believed() {
    let mut bench = Bench::new();
    let upload = ConnectionReport { rest: Some(logged(2, 29)), ..report(1, 1) };
    bench.fail(0, false, 1, vec![upload]);
    assert!(bench.reset(0).contains("contradicts itself"));
}

#[test]
fn pieces_pass_also_when_the_recovery_is_over_and_the_manager_is_a_new_one() {
    let mut bench = Bench::new();
    assert_eq!(ask(&mut bench, 0, "l1", logged(1, 5)), (vec![], vec![ToLog::Read(logged(1, 5))]));
    for bytes in [Ok(vec![1; 100]), Err("overwritten".to_owned())] {
        let piece = LoggedPiece { logged: logged(1, 5), bytes };
        assert_eq!(answer(&mut bench, 1, piece.clone()), (vec![ToProxy::Piece(piece)], vec![]));
    }
    assert_eq!((bench.counter("pieces_asked"), bench.counter("pieces_lost")), (1, 1));
    assert_eq!(bench.counter("pieces_awaited"), 0);
}

#[test]
fn few_are_awaited_at_a_time_and_the_others_follow() {
    let mut bench = Bench::new();
    let asked: usize = (1..=70).map(|port| ask(&mut bench, 0, "l1", logged(port, 0)).1.len()).sum();
    assert_eq!((asked, bench.counter("pieces_awaited")), (64, 64));
    let piece = LoggedPiece { logged: logged(1, 0), bytes: Ok(vec![0; 100]) };
    let (_, next) = answer(&mut bench, 1, piece);
    assert_eq!(next, [ToLog::Read(logged(65, 0))]);
    // What a lost connection swallowed is not waited for, and asked for again by the proxy.
    bench.manager.handle_log_disconnected(L1);
    assert_eq!(bench.counter("pieces_awaited"), 0);
    assert_eq!(ask(&mut bench, 2, "l1", logged(2, 0)), (vec![], vec![]));
    bench.manager.handle_log_connected(L1);
    bench.told(3);
    assert_eq!(ask(&mut bench, 3, "l1", logged(2, 0)).1, [ToLog::Read(logged(2, 0))]);
}

#[test]
fn an_unknown_logger_is_not_asked() {
    let mut bench = Bench::new();
    assert_eq!(ask(&mut bench, 0, "l9", logged(1, 0)), (vec![], vec![]));
    assert_eq!(bench.counter("log_messages_dropped"), 1);
}
