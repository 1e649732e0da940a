//! `[T_R, T_L]`: what runs again on an alternate that has not the state of T_L (paper §4.3, equations 2 and 3).

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use cluster::config::Recovery;
use cluster::control::{
    AnsweredUpdate, ConnectionReport, Flow, PendingRequest, Replayed, Stretch, Tags, TakeIn, Updates,
};
use recovery_manager::{AlternateState, Plan, Steps, plan};

const UPDATE: Tags = Tags { deterministic: false, read_only: false, idempotent: false, large_file: false };
const READ_ONLY: Tags = Tags { read_only: true, ..UPDATE };
const DETERMINISTIC: Tags = Tags { deterministic: true, idempotent: true, ..UPDATE };
const BODY: Stretch = Stretch { bytes: 5, hash: 77 };

fn update(ordinal: u32, tags: Tags) -> AnsweredUpdate {
    AnsweredUpdate {
        ordinal,
        summary: format!("POST /{ordinal}"),
        tags,
        bytes: format!("<{ordinal}>").into_bytes(),
        status: 201,
        body: Some(BODY),
    }
}

/// T_L = 7: updates 2, 3, 5 and 7, the others were read-only. Request 8 is outstanding.
fn updated() -> ConnectionReport {
    let backend = "198.51.100.1:80".parse().unwrap();
    let answered = vec![update(2, UPDATE), update(3, DETERMINISTIC), update(5, READ_ONLY), update(7, UPDATE)];
    let request = PendingRequest {
        volatile_headers: None,
        ordinal: 8,
        summary: "GET /f".to_owned(),
        tags: READ_ONLY,
        complete: true,
        bytes: b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    };
    ConnectionReport {
        t_l: 7,
        ack_tl: 1000,
        ack_cl: 1000,
        client_next: 5000,
        updates: Some(Updates { answered, ran_at: vec![backend] }),
        pending: vec![request],
        ..ConnectionReport::new(Flow { client: "203.0.113.5:40000".parse().unwrap(), backend })
    }
}

fn on(state: AlternateState, report: &ConnectionReport, config: &Recovery) -> Result<Steps, String> {
    match plan(report, state, &["198.51.100.2:80".parse().unwrap()], config) {
        Plan::Recover(steps) => Ok(*steps),
        Plan::GiveUp(refusal) => Err(refusal.reason),
    }
}

fn with(t_s: u32, t_a: u32) -> Steps {
    on(AlternateState { t_s, t_a }, &updated(), &Recovery::default()).unwrap()
}

fn names(steps: &Steps) -> Vec<&str> {
    steps.replayed.iter().map(|replayed| replayed.name.as_str()).collect()
}

fn pending() -> Vec<u8> {
    updated().pending[0].bytes.clone()
}

#[test]
fn an_alternate_without_state_runs_all_updates_in_order_then_what_is_outstanding() {
    let steps = with(0, 0);
    assert_eq!((steps.t_r, steps.t_sp), (1, 8));
    assert_eq!(names(&steps), ["request 2 (POST /2)", "request 3 (POST /3)", "request 7 (POST /7)"]);
    assert_eq!(steps.replay, [b"<2><3><7>".to_vec(), pending()].concat());
    assert_eq!(steps.take_in, TakeIn::Nothing);
}

#[test]
fn a_lagging_alternate_runs_what_follows_t_a() {
    let steps = with(2, 3);
    assert_eq!((steps.t_r, names(&steps)), (4, vec!["request 7 (POST /7)"]));
    assert_eq!(steps.replay, [b"<7>".to_vec(), pending()].concat());
}

#[test]
fn an_alternate_whose_state_ends_with_a_read_only_transaction_lacks_nothing_of_it() {
    assert_eq!((with(5, 5).t_r, names(&with(5, 5))), (6, vec!["request 7 (POST /7)"]));
    assert_eq!(names(&with(4, 4)), ["request 7 (POST /7)"]);
}

#[test]
fn an_alternate_without_lag_runs_nothing_again() {
    let steps = with(7, 7);
    assert_eq!((steps.t_r, steps.t_sp, names(&steps).len()), (8, 8, 0));
    assert_eq!(steps.replay, pending());
}

/// Its state has come though the logger's signal to apply it has not.
#[test]
fn an_alternate_ahead_of_the_loggers_signals_runs_nothing_again() {
    assert_eq!((with(3, 9).t_r, names(&with(3, 9)).len()), (8, 0));
}

#[test]
fn only_deterministic_updates_have_to_be_answered_with_the_same_body() {
    let Steps { replayed, .. } = with(0, 0);
    let name = |n| format!("request {n} (POST /{n})");
    let expected = |n, same| Replayed { name: name(n), request_bytes: 3, status: 201, same };
    assert_eq!(replayed, [expected(2, None), expected(3, Some(BODY)), expected(7, None)]);
}

#[test]
fn the_order_carries_what_is_replayed() {
    let report = updated();
    let order = with(0, 0).into_order(1, &report, "l");
    let replayed: usize = order.replayed.iter().map(|replayed| replayed.request_bytes).sum();
    assert_eq!((order.replayed.len(), order.replay.len()), (3, replayed + pending().len()));
}

#[test]
fn beyond_its_bounds_a_replay_is_refused() {
    let nothing = AlternateState { t_s: 0, t_a: 0 };
    for (config, key) in [
        (Recovery { replay_transactions: 2, ..Recovery::default() }, "recovery.replay_transactions"),
        (Recovery { replay_bytes: 8, ..Recovery::default() }, "recovery.replay_bytes"),
    ] {
        let why = on(nothing, &updated(), &config).unwrap_err();
        assert!(why.contains(key), "{why}");
    }
    let config = Recovery { replay_transactions: 3, replay_bytes: 9, ..Recovery::default() };
    assert!(on(nothing, &updated(), &config).is_ok());
}

#[test]
fn updates_that_contradict_the_rest_of_the_report_are_not_replayed() {
    for change in [
        (|updates| updates[0].ordinal = 0) as fn(&mut Vec<AnsweredUpdate>),
        |updates| updates[3].ordinal = 8,
        |updates| updates.swap(0, 1),
        |updates| updates[1].ordinal = 2,
        |updates| updates[0].bytes.clear(),
    ] {
        let mut report = updated();
        change(&mut report.updates.as_mut().unwrap().answered);
        let why = on(AlternateState { t_s: 0, t_a: 0 }, &report, &Recovery::default()).unwrap_err();
        assert!(why.contains("contradicts itself: the answered updates"), "{why}");
    }
}

/// Its state is of no use to the connection: an update in flight is not run a second time there either.
#[test]
fn an_update_in_flight_is_refused_whatever_the_alternate_has() {
    let mut report = updated();
    report.pending[0].tags = UPDATE;
    for t_a in [0, 4, 7] {
        let why = on(AlternateState { t_s: 0, t_a }, &report, &Recovery::default()).unwrap_err();
        assert!(why.starts_with("update in flight"), "{why}");
    }
}
