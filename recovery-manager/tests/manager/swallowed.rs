//! What clients sent into a fence goes to the proxy behind the order.

use cluster::control::{SWALLOWED_BYTES, Swallowed};

use super::*;

fn swallowed(port: u16, seq: u32) -> Swallowed {
    let flow = Flow { client: client(port), backend: backend(1) };
    Swallowed { flow, client_next: 1, seq, timestamp: None, bytes: b"GET /g".to_vec() }
}

fn tell(bench: &mut Bench, ms: u64, swallowed: Swallowed) -> Vec<ToProxy> {
    bench.manager.handle_log(at(ms), L1, FromLog::Swallowed(swallowed));
    bench.told(ms).0
}

fn passed(number: u8, swallowed: Swallowed) -> ToProxy {
    ToProxy::Swallowed { alternate: backend(number), swallowed }
}

#[test]
fn it_follows_the_order_and_each_later_one() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let both = [swallowed(1, 1), swallowed(1, 7)];
    bench.manager.handle_log(at(0), L1, FromLog::Swallowed(both[0].clone()));
    let (told, _) = bench.told(0);
    let order = orders(&told)[0].clone();
    assert_eq!(told[1..], [passed(3, both[0].clone())]);
    assert_eq!(tell(&mut bench, 1, both[1].clone()), [passed(3, both[1].clone())]);
    bench.end(2, order.id, unreachable());
    let (told, _) = bench.told(2);
    assert_eq!(orders(&told)[0].alternate, backend(2));
    assert_eq!(told[1..], both.map(|swallowed| passed(2, swallowed)));
    // Also when the proxy has forgotten it.
    bench.manager.handle_proxy_disconnected(at(3).monotonic);
    bench.manager.handle_proxy_connected(at(3).monotonic);
    let again = bench.told(3).0.into_iter().filter(|told| matches!(told, ToProxy::Swallowed { .. }));
    assert_eq!(again.count(), 2);
}

#[test]
fn what_comes_after_the_re_splice_goes_to_the_alternate() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.end(1, order.id, respliced());
    bench.told(1);
    assert_eq!(tell(&mut bench, 2, swallowed(1, 1)), [passed(3, swallowed(1, 1))]);
    assert_eq!(bench.counter("swallowed_passed"), 1);
}

/// Of the connection that was re-spliced with the report's request on backend 3, and failed there.
fn failed_again() -> ConnectionReport {
    let first = report(1, 1);
    let isn = first.client_next.wrapping_sub(first.pending[0].bytes.len() as u32 + 1);
    ConnectionReport { client_isn: isn, ..report(1, 3) }
}

/// The same as told of the second connection.
fn of_second(swallowed: &Swallowed) -> Swallowed {
    Swallowed { flow: failed_again().flow, ..swallowed.clone() }
}

#[test]
fn what_comes_when_the_alternate_has_failed_as_well_follows_the_next_order() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.end(1, order.id, respliced());
    bench.fail(2, false, 3, vec![failed_again()]);
    assert_eq!(bench.order(2).alternate, backend(2));
    let late = swallowed(1, 1);
    assert_eq!(tell(&mut bench, 3, late.clone()), [passed(2, of_second(&late))]);
    // Of another connection of the same client.
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    bench.end(1, order.id, respliced());
    bench.fail(2, false, 3, vec![ConnectionReport { client_isn: 77, ..failed_again() }]);
    assert_eq!(bench.order(2).alternate, backend(2));
    assert!(tell(&mut bench, 3, late).is_empty());
}

#[test]
fn both_fences_have_swallowed_something_before_the_re_splice_is_known() {
    let mut bench = Bench::new();
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    let first = swallowed(1, 1);
    assert_eq!(tell(&mut bench, 1, first.clone()), [passed(3, first.clone())]);
    bench.fail(2, false, 3, vec![failed_again()]);
    let (told, _) = bench.told(2);
    assert_eq!(
        (orders(&told)[0].flow.backend, told[1..].to_vec()),
        (backend(1), vec![passed(2, first.clone())])
    );
    let second = of_second(&swallowed(1, 8));
    assert!(tell(&mut bench, 3, second.clone()).is_empty(), "the proxy may never have re-spliced");
    bench.end(4, order.id, respliced());
    let (told, _) = bench.told(4);
    let next = orders(&told)[0].clone();
    assert_eq!(next.flow.backend, backend(3));
    let passed: Vec<ToProxy> =
        told.into_iter().filter(|told| matches!(told, ToProxy::Swallowed { .. })).collect();
    let both = [of_second(&first), second];
    let alternate = next.alternate;
    assert_eq!(passed, both.map(|swallowed| ToProxy::Swallowed { alternate, swallowed }));
    bench.end(5, next.id, Outcome::Gone("it reset the connection".to_owned()));
    assert_eq!(bench.counter("report_bytes_held"), 0);
}

#[test]
fn what_belongs_to_no_recovery_is_dropped() {
    let mut bench = Bench::new();
    assert!(tell(&mut bench, 0, swallowed(1, 1)).is_empty());
    bench.fail(0, false, 1, vec![report(1, 1)]);
    let order = bench.order(0);
    let other = Swallowed { client_next: 2, ..swallowed(1, 1) };
    let elsewhere = Flow { backend: backend(2), ..other.flow };
    assert!(tell(&mut bench, 0, other.clone()).is_empty());
    assert!(tell(&mut bench, 0, Swallowed { flow: elsewhere, ..swallowed(1, 1) }).is_empty());
    bench.end(1, order.id, Outcome::Gone("it reset the connection".to_owned()));
    bench.told(1);
    assert!(tell(&mut bench, 2, swallowed(1, 1)).is_empty() && tell(&mut bench, 2, other).is_empty());
    assert_eq!(bench.counter("swallowed_dropped"), 5);
}

#[test]
fn there_is_a_bound_for_each_client_and_for_all() {
    let mut bench = Bench::with(Limits { report_bytes: 200_000, ..Limits::default() });
    bench.fail(0, false, 1, (1..=3).map(|port| report(port, 1)).collect());
    bench.told(0);
    let large = |port| Swallowed { bytes: vec![0; SWALLOWED_BYTES], ..swallowed(port, 1) };
    assert_eq!(tell(&mut bench, 0, large(1)).len(), 1);
    assert!(tell(&mut bench, 0, swallowed(1, 1)).is_empty());
    assert_eq!(tell(&mut bench, 0, large(2)).len() + tell(&mut bench, 0, large(3)).len(), 2);
    let held = bench.counter("report_bytes_held");
    assert!(held as usize >= 3 * SWALLOWED_BYTES, "{held}");
    assert!(tell(&mut bench, 0, Swallowed { bytes: vec![0; 4000], ..swallowed(3, 1) }).is_empty());
    for order in 100..=102 {
        bench.end(1, order, Outcome::Gone("it reset the connection".to_owned()));
    }
    assert_eq!(bench.counter("report_bytes_held"), 0);
}
