//! The plan's decisions, one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

use std::net::SocketAddr;

use cluster::config::Recovery;
use cluster::control::{
    ChunkedContent, ConnectionReport, Flow, LoggedRequest, PartialResponse, PendingRequest, Prefix, Rest,
    Stretch, Tags, TakeIn,
};
use http1::ChunkPlace;
use recovery_manager::{AlternateState, Plan, Refusal, Steps, plan};

const READ_ONLY: Tags = Tags { deterministic: false, read_only: true, idempotent: false, large_file: false };
const IDEMPOTENT: Tags = Tags { deterministic: false, read_only: false, idempotent: true, large_file: false };
const UPDATE: Tags = Tags { deterministic: false, read_only: false, idempotent: false, large_file: false };

const GET: &str = "GET /f HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: \"v\"\r\n\r\n";

fn alternate() -> SocketAddr {
    "198.51.100.2:80".parse().unwrap()
}

fn idle() -> ConnectionReport {
    ConnectionReport {
        t_l: 7,
        ack_tl: 1000,
        ack_cl: 1000,
        client_next: 77,
        ..ConnectionReport::new(Flow {
            client: "203.0.113.5:40000".parse().unwrap(),
            backend: "198.51.100.1:80".parse().unwrap(),
        })
    }
}

fn with_request(mut report: ConnectionReport, bytes: &str, tags: Tags, complete: bool) -> ConnectionReport {
    let ordinal = report.t_l + report.pending.len() as u32 + 1;
    let summary = bytes.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    report.pending.push(PendingRequest {
        volatile_headers: None,
        ordinal,
        summary,
        tags,
        complete,
        bytes: bytes.into(),
    });
    report
}

/// `body_bytes` of the response have been logged, the client has acknowledged all.
fn answered(mut report: ConnectionReport, body_bytes: u64) -> ConnectionReport {
    let tail = vec![b'z'; body_bytes.min(16 << 10) as usize];
    let hashes = vec![Stretch { bytes: body_bytes, hash: 42 }];
    report.partial = PartialResponse {
        head: HEAD.into(),
        head_complete: true,
        body_bytes,
        hashes,
        content: None,
        tail,
        left_out: 0,
    };
    report.ack_cl = report.ack_tl.wrapping_add(HEAD.len() as u32 + body_bytes as u32);
    report
}

fn decide(report: &ConnectionReport) -> Plan {
    plan(report, AlternateState::level_with(report.t_l), &[alternate()], &Recovery::default())
}

fn steps(report: &ConnectionReport) -> Steps {
    match decide(report) {
        Plan::Recover(steps) => *steps,
        Plan::GiveUp(refusal) => panic!("{refusal:?}"),
    }
}

fn reason(report: &ConnectionReport) -> String {
    match decide(report) {
        Plan::GiveUp(refusal) => refusal.reason,
        Plan::Recover(steps) => panic!("{steps:?}"),
    }
}

#[test]
fn an_idle_connection_goes_on_with_nothing_to_replay() {
    let steps = steps(&idle());
    assert_eq!((steps.t_r, steps.t_sp, steps.alternate), (8, 8, alternate()));
    assert!(steps.replay.is_empty() && steps.resend.is_empty() && steps.take_in == TakeIn::Nothing);
}

#[test]
fn an_unanswered_request_is_replayed_and_nothing_is_compared() {
    let steps = steps(&with_request(idle(), GET, READ_ONLY, true));
    assert_eq!((steps.replay.as_slice(), steps.take_in), (GET.as_bytes(), TakeIn::Nothing));
}

#[test]
fn a_half_sent_request_is_replayed_whatever_its_tags() {
    let steps = steps(&with_request(idle(), "POST /f HTTP/1.1\r\nHo", UPDATE, false));
    assert_eq!(steps.replay, b"POST /f HTTP/1.1\r\nHo");
}

/// The end of the pending requests, 5,000,000 bytes, is in the log only.
fn upload() -> ConnectionReport {
    let report = with_request(idle(), "POST /f HTTP/1.1\r\nHo", UPDATE, false);
    let rest = LoggedRequest { flow: report.flow, client_isn: 9, from: 20, bytes: 5_000_000 };
    ConnectionReport { rest: Some(rest), ..report }
}

#[test]
fn a_large_upload_is_replayed_from_the_log_behind_what_was_kept() {
    let (report, steps) = (upload(), steps(&upload()));
    assert_eq!(
        (steps.replay.as_slice(), &steps.take_in),
        (b"POST /f HTTP/1.1\r\nHo".as_slice(), &TakeIn::Nothing)
    );
    let rest = Rest { logger: "l".to_owned(), logged: report.rest.unwrap() };
    assert_eq!(steps.into_order(1, &report, "l").rest, Some(rest));
    let config = Recovery { upload_bytes: 4_999_999, ..Recovery::default() };
    let plan = plan(&report, AlternateState::level_with(7), &[alternate()], &config);
    assert!(matches!(plan, Plan::GiveUp(refusal) if refusal.reason.contains("recovery.upload_bytes")));
}

#[test]
fn an_interim_response_is_no_sign_that_half_an_update_was_applied() {
    for (head, goes_on) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", true),
        ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", true),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", false),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 1", false),
    ] {
        let mut report = upload();
        report.partial.head = head.into();
        report.ack_cl = report.ack_tl + head.len() as u32;
        let plan = plan(&report, AlternateState::level_with(7), &[alternate()], &Recovery::default());
        assert_eq!(matches!(plan, Plan::Recover(_)), goes_on, "{head}");
    }
}

#[test]
fn a_response_in_progress_is_compared_from_its_first_byte() {
    let steps = steps(&answered(with_request(idle(), GET, READ_ONLY, true), 5000));
    let TakeIn::Prefix(Prefix { head, head_complete, volatile, body_bytes, hashes, .. }) = steps.take_in
    else {
        panic!("not compared")
    };
    assert_eq!((head.as_slice(), head_complete, body_bytes), (HEAD.as_bytes(), true, 5000));
    assert_eq!(hashes, [Stretch { bytes: 5000, hash: 42 }]);
    assert_eq!(volatile, ["Date"]);
}

/// Behind a hole the client has bytes in the failed backend's chunks.
#[test]
fn other_chunks_will_do_unless_the_log_has_a_hole() {
    let content =
        ChunkedContent { content: Stretch { bytes: 4_900, hash: 43 }, place: ChunkPlace::Content(100) };
    let mut report = answered(with_request(idle(), GET, READ_ONLY, true), 5000);
    report.partial.content = Some(content);
    let offered = |report: &ConnectionReport| {
        let TakeIn::Prefix(prefix) = steps(report).take_in else { panic!("not compared") };
        prefix.content
    };
    assert_eq!(offered(&report), Some(content));
    let holed = ConnectionReport { beyond: vec![(10, vec![1])], ..report.clone() };
    assert_eq!(offered(&holed), None);
    let more = Stretch { bytes: 5_001, hash: 43 };
    report.partial.content = Some(ChunkedContent { content: more, ..content });
    let plan = plan(&report, AlternateState::level_with(7), &[alternate()], &Recovery::default());
    assert!(matches!(plan, Plan::GiveUp(refusal) if refusal.reason.contains("more content than bytes")));
}

#[test]
fn the_beginning_of_a_head_is_compared_as_far_as_it_came() {
    let mut report = with_request(idle(), GET, READ_ONLY, true);
    report.partial.head = b"HTTP/1.1 20".to_vec();
    report.ack_cl = report.ack_tl + 11;
    let TakeIn::Prefix(Prefix { head, head_complete, body_bytes, .. }) = steps(&report).take_in else {
        panic!("not compared")
    };
    assert_eq!((head.as_slice(), head_complete, body_bytes), (b"HTTP/1.1 20".as_slice(), false, 0));
}

#[test]
fn much_of_a_body_is_continued_by_range_with_pipelined_requests_verbatim_behind() {
    let report = with_request(idle(), GET, READ_ONLY, true);
    let report = answered(with_request(report, POST, IDEMPOTENT, true), 300 << 10);
    let steps = steps(&report);
    let TakeIn::Range { first, complete, overlap, .. } = steps.take_in else { panic!("no range") };
    assert_eq!((first, complete, overlap.len()), ((300 << 10) - (16 << 10), 1_000_000, 16 << 10));
    let replay = String::from_utf8(steps.replay).unwrap();
    assert!(
        replay.starts_with("GET /f HTTP/1.1\r\n") && replay.contains(&format!("Range: bytes={first}-\r\n"))
    );
    assert!(replay.ends_with(POST));
}

/// Of a large file, of which the client has `body_bytes` and may have `left_out` more that the log has not.
fn large(body_bytes: u64, left_out: u64, tags: Tags) -> ConnectionReport {
    let mut report = answered(with_request(idle(), GET, tags, true), body_bytes);
    report.partial.hashes = vec![Stretch { bytes: 1000, hash: 1 }];
    (report.partial.tail, report.partial.left_out) = (Vec::new(), left_out);
    report
}

#[test]
fn a_large_file_is_continued_where_the_log_ends_however_little_that_is() {
    let tags = Tags { large_file: true, ..READ_ONLY };
    let report = large(2000, 50_000, tags);
    let steps = steps(&report);
    let TakeIn::Range { first, overlap, whole, .. } = steps.take_in.clone() else { panic!("no range") };
    assert_eq!((first, overlap.len()), (2000, 0));
    assert!(String::from_utf8(steps.replay.clone()).unwrap().contains("Range: bytes=2000-\r\n"));
    assert_eq!((whole.body_bytes, &whole.hashes), (2000, &report.partial.hashes));
    assert_eq!(steps.into_order(1, &report, "l").left_out, 50_000);
}

#[test]
fn where_bytes_were_left_out_validators_are_not_volatile() {
    let mut report = large(2000, 50_000, Tags { large_file: true, ..READ_ONLY });
    let volatile = ["Date", "etag", "Last-Modified"].map(str::to_owned);
    report.pending[0].volatile_headers = Some(volatile.to_vec());
    let TakeIn::Range { whole, .. } = steps(&report).take_in else { panic!("no range") };
    assert_eq!(whole.volatile, ["Date"]);
}

#[test]
fn what_was_left_out_and_cannot_be_asked_for_resets_the_client() {
    let tags = Tags { large_file: true, ..READ_ONLY };
    let mut weak = large(2000, 50_000, tags);
    let head = String::from_utf8(weak.partial.head.clone()).unwrap().replace("ETag: \"", "ETag: W/\"");
    weak.partial.head = head.into_bytes();
    weak.ack_cl += 2;
    assert!(reason(&weak).contains("large file"), "{weak:?}");
    assert!(reason(&large(2000, 50_000, READ_ONLY)).contains("large file"), "not tagged");
    assert!(reason(&large(2000, 1 << 40, tags)).contains("contradicts itself"));
    let mut more = large(500, 0, tags);
    more.partial.hashes = vec![Stretch { bytes: 501, hash: 0 }];
    assert!(reason(&more).contains("hashes reach beyond"));
}

#[test]
fn a_read_only_post_is_replayed_whole_however_much_was_answered() {
    let report = answered(with_request(idle(), POST, READ_ONLY, true), 300 << 10);
    let steps = steps(&report);
    assert_eq!(steps.replay, POST.as_bytes());
    assert!(matches!(steps.take_in, TakeIn::Prefix(_)));
}

#[test]
fn unacknowledged_bytes_are_resent_from_ack_cl() {
    let mut report = idle();
    report.ack_cl = report.ack_tl.wrapping_sub(3);
    report.unacked = b"end".to_vec();
    let order = steps(&report).into_order(9, &report, "l");
    assert_eq!((order.id, order.resend_from, order.resend.as_slice()), (9, 997, b"end".as_slice()));
}

#[test]
fn a_logged_fin_of_the_client_is_passed_on() {
    let report = ConnectionReport { client_fin: true, ..with_request(idle(), GET, READ_ONLY, true) };
    assert!(steps(&report).into_order(1, &report, "l").client_fin);
}

#[test]
fn an_update_in_flight_resets_the_client() {
    let reason = reason(&with_request(idle(), POST, UPDATE, true));
    assert_eq!(
        reason,
        "update in flight: request 8 (POST /f) is neither read-only nor idempotent, and it may have been applied"
    );
}

#[test]
fn an_update_whose_response_had_begun_resets_the_client() {
    let reason = reason(&answered(with_request(idle(), POST, UPDATE, true), 10));
    assert!(reason.ends_with("its response had begun"), "{reason}");
}

#[test]
fn an_incomplete_update_that_was_answered_early_resets_the_client() {
    let reason = reason(&answered(with_request(idle(), "POST /f HTTP/1.1\r\n", UPDATE, false), 10));
    assert!(reason.ends_with("its response had begun"), "{reason}");
}

#[test]
fn an_update_behind_a_read_only_request_resets_the_client_too() {
    let report = with_request(with_request(idle(), GET, READ_ONLY, true), POST, UPDATE, true);
    assert!(reason(&report).contains("request 9 (POST /f)"));
}

#[test]
fn an_idempotent_update_is_run_again() {
    assert_eq!(steps(&with_request(idle(), POST, IDEMPOTENT, true)).replay, POST.as_bytes());
}

#[test]
fn what_the_log_calls_unrecoverable_is_reset_with_its_reason() {
    let report = ConnectionReport { unrecoverable: Some("the log was lapped".to_owned()), ..idle() };
    assert_eq!(reason(&report), "the log was lapped");
}

#[test]
fn without_an_alternate_the_client_is_reset() {
    let report = idle();
    let plan = plan(&report, AlternateState::level_with(7), &[], &Recovery::default());
    let reason = "no alternate backend is up".to_owned();
    assert_eq!(plan, Plan::GiveUp(Refusal { reason, status: Some(503) }));
}

#[test]
fn a_lagging_alternate_cannot_stand_in_if_the_log_did_not_keep_updates() {
    let state = AlternateState { t_s: 4, t_a: 5 };
    let Plan::GiveUp(refusal) = plan(&idle(), state, &[alternate()], &Recovery::default()) else { panic!() };
    assert!(refusal.reason.starts_with("the log has not kept the connection's updates"), "{refusal:?}");
    assert_eq!(refusal.status, Some(502));
}

#[test]
fn an_alternate_to_which_more_state_has_come_starts_at_t_l_plus_1() {
    let state = AlternateState { t_s: 7, t_a: 9 };
    let Plan::Recover(steps) = plan(&idle(), state, &[alternate()], &Recovery::default()) else { panic!() };
    assert_eq!((steps.t_r, steps.t_sp), (8, 8));
}

#[test]
fn an_alternate_that_applied_more_than_was_logged_cannot_stand_in() {
    let state = AlternateState { t_s: 8, t_a: 8 };
    assert!(matches!(plan(&idle(), state, &[alternate()], &Recovery::default()), Plan::GiveUp(_)));
}

#[test]
fn an_alternate_that_applied_more_than_has_come_to_it_contradicts_itself() {
    let state = AlternateState { t_s: 7, t_a: 6 };
    let Plan::GiveUp(refusal) = plan(&idle(), state, &[alternate()], &Recovery::default()) else { panic!() };
    assert!(
        refusal.reason.contains("applied transaction 7 (T_S), but its state ends with 6 (T_A)"),
        "{refusal:?}"
    );
}

#[test]
fn more_requests_than_are_kept_reset_the_client() {
    let config = Recovery { request_bytes: 100, ..Recovery::default() };
    let report = with_request(idle(), &format!("{GET}{}", "x".repeat(1000)), READ_ONLY, true);
    let plan = plan(&report, AlternateState::level_with(7), &[alternate()], &config);
    assert!(matches!(plan, Plan::GiveUp(refusal) if refusal.reason.contains("recovery.request_bytes")));
}

#[test]
fn a_report_that_contradicts_itself_resets_the_client() {
    let get = || with_request(idle(), GET, READ_ONLY, true);
    let changed = |change: fn(&mut ConnectionReport)| {
        let mut report = answered(get(), 100);
        change(&mut report);
        reason(&report)
    };
    for (what, change) in [
        ("numbered from T_L + 1", (|r| r.pending[0].ordinal = 9) as fn(&mut ConnectionReport)),
        ("numbered from T_L + 1", |r| r.t_l = u32::MAX),
        ("is empty", |r| r.pending[0].bytes.clear()),
        ("without a request", |r| r.pending.clear()),
        ("after an incomplete head", |r| r.partial.head_complete = false),
        ("tail is longer", |r| r.partial.tail = vec![0; 101]),
        ("not logged", |r| r.ack_cl += 1),
        ("do not reach", |r| r.unacked = vec![0]),
        ("do not reach", |r| r.ack_cl -= 1),
        ("behind a hole", |r| r.beyond = vec![(0, vec![1])]),
        ("behind a hole", |r| r.beyond = vec![(5, Vec::new())]),
        ("behind a hole", |r| r.beyond = vec![(5, vec![1, 2]), (7, vec![3])]),
        ("behind a hole", |r| r.beyond = vec![(5, vec![1; 1 << 20])]),
        ("follows an incomplete", |r| {
            let mut second = r.pending[0].clone();
            second.ordinal += 1;
            r.pending[0].complete = false;
            r.pending.push(second);
        }),
    ] {
        let reason = changed(change);
        assert!(
            reason.starts_with("the log's report contradicts itself: ") && reason.contains(what),
            "{reason}"
        );
    }
}
