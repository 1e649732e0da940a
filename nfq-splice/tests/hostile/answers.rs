//! Answers of the proxy's own: whole, understood, and read before the connection ends.

use std::time::Duration;

use packet::{Flags, SegmentBuilder, Seq};

use crate::proxy::{ISN, Proxy, REQUEST, RST_ACK, Sent, backend, client, data};

/// What a client has received.
pub(crate) fn stream(sent: &[Sent], port: u16) -> String {
    let mut pieces: Vec<&Sent> =
        sent.iter().filter(|sent| sent.to == client(port) && !sent.payload.is_empty()).collect();
    pieces.sort_by(|a, b| a.seq.since(b.seq).cmp(&0));
    pieces.dedup_by_key(|sent| sent.seq);
    let bytes: Vec<u8> = pieces.iter().flat_map(|sent| sent.payload.clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The status line of what the proxy answered, and whether it closed.
pub(crate) fn answer(sent: &[Sent]) -> (String, bool) {
    let closes = sent.iter().any(|sent| sent.flags.fin());
    (stream(sent, 1).lines().next().unwrap_or_default().to_owned(), closes)
}

/// One after the FIN of an answer.
fn end_of(sent: &[Sent]) -> Seq {
    let last = sent.iter().find(|sent| sent.flags.fin()).unwrap();
    last.seq + last.payload.len() as u32 + 1
}

/// Sends `request`, gives what came back and one after its FIN.
fn ask(proxy: &mut Proxy, request: &[u8]) -> (Vec<Sent>, Seq) {
    let iss = proxy.establish(1);
    let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, request) });
    let end = end_of(&sent);
    (sent, end)
}

/// Every kind of request that a splice must not pass on, and why (RFC 9112).
#[test]
fn bad_requests_are_answered_and_the_connection_closed() {
    let long = format!("GET /known HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1100));
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(1100));
    let fields = format!("GET /known HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(130));
    for (request, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00garbage\r\n\r\n"[..], "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\nHost: a\n\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501"),
        (b"GET /known HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
        (b"GET /unknown HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        (long.as_bytes(), "431"),
        (fields.as_bytes(), "431"),
        (uri.as_bytes(), "414"),
    ] {
        let mut proxy = Proxy::new();
        let (sent, end) = ask(&mut proxy, request);
        let shown = String::from_utf8_lossy(request);
        let text = stream(&sent, 1);
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status} expected, got {text:?} for {shown:?}"
        );
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(head.ends_with("Connection: close"), "{head}");
        assert!(sent.iter().all(|sent| sent.to == client(1)), "no backend sees it");
        assert_eq!(proxy.counter(&format!("answered_{status}")), 1);
        let fin = SegmentBuilder { flags: Flags::FIN, ack: Some(end), ..data(1, request.len() as u32, b"") };
        let last = proxy.receive(&fin);
        assert_eq!(
            last.last().map(|sent| (sent.flags, sent.ack)),
            Some((Flags::ACK, ISN + 2 + request.len() as u32))
        );
        assert_eq!(proxy.pass(Duration::from_secs(60)), [], "closed");
        assert_eq!(proxy.connections(), 0, "{status}");
    }
}

#[test]
fn no_usable_backend_is_503_with_a_time_to_try_again() {
    let mut proxy = Proxy::new();
    for last in [11, 12] {
        proxy.engine.handle_backend_state(backend(last), false);
    }
    let (sent, _) = ask(&mut proxy, REQUEST);
    let text = stream(&sent, 1);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nRetry-After: 5\r\n"), "{text}");
}

#[test]
fn an_answer_carries_the_date() {
    let mut proxy = Proxy::new();
    // RFC 9110 §5.6.7's own example, asked for a minute later.
    proxy.engine.handle_time_of_day(proxy.now, Duration::from_secs(784_111_777));
    proxy.pass(Duration::from_secs(60));
    let (sent, _) = ask(&mut proxy, b"nonsense\r\n\r\n");
    let text = stream(&sent, 1);
    assert!(text.contains("\r\nDate: Sun, 06 Nov 1994 08:50:37 GMT\r\n"), "{text}");
}

#[test]
fn a_head_request_gets_no_body() {
    for (request, status) in [
        (&b"HEAD /unknown HTTP/1.1\r\nHost: a\r\n\r\n"[..], "404"),
        (b"HEAD /known HTTP/1.1\r\n\r\n", "400"),
        (b"\r\nHEAD /known HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
    ] {
        let (sent, _) = ask(&mut Proxy::new(), request);
        let text = stream(&sent, 1);
        assert!(text.contains(status) && text.ends_with("\r\n\r\n"), "{text}");
        assert!(!text.contains("Content-Length: 0"), "the length is that of a response to GET");
    }
}

#[test]
fn an_answer_is_repeated_then_the_client_is_reset() {
    let mut proxy = Proxy::new();
    ask(&mut proxy, b"nonsense\r\n\r\n");
    let sent = proxy.pass(Duration::from_secs(60));
    assert!(sent.len() >= 3, "{sent:?}");
    assert_eq!(sent.last().map(|sent| sent.flags), Some(RST_ACK));
    assert_eq!((proxy.connections(), proxy.counter("answer_not_taken_reset")), (0, 1));
}

#[test]
fn the_last_acknowledgement_is_given_again() {
    let mut proxy = Proxy::new();
    let request = b"nonsense\r\n\r\n";
    let (_, end) = ask(&mut proxy, request);
    let fin = SegmentBuilder { flags: Flags::FIN, ack: Some(end), ..data(1, request.len() as u32, b"") };
    let first = proxy.receive(&fin);
    proxy.pass(Duration::from_secs(1));
    assert_eq!(proxy.receive(&fin), first);
    assert_eq!(first[0].seq, end);
}

/// A reset that overtakes the answer would delete it unread (RFC 9112 §9.6): an upload goes on for a while.
#[test]
fn what_a_client_still_sends_is_acknowledged_and_thrown_away() {
    let mut proxy = Proxy::new();
    let request = b"POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
    let (sent, end) = ask(&mut proxy, request);
    assert!(answer(&sent).0.contains("404"));
    let (chunk, mut at) = ([b'x'; 1400], request.len() as u32);
    for _ in 0..20 {
        let sent = proxy.receive(&SegmentBuilder { ack: Some(end), ..data(1, at, &chunk) });
        at += 1400;
        assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, Flags::ACK, ISN + 1 + at));
        assert!(sent[0].window > 0);
        assert_eq!(proxy.pass(Duration::from_secs(1)), []);
    }
    let sent = proxy.pass(Duration::from_secs(60));
    assert_eq!((sent.len(), sent[0].flags, proxy.connections()), (1, RST_ACK, 0), "but not for ever");
    assert_eq!((sent[0].seq, sent[0].ack), (end, ISN + 1 + at), "exact, so that it is believed");
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    for request in [&b"GET /unknown HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"GET /known HTTP/1.1\r\nHos"] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let closing = SegmentBuilder { flags: Flags::FIN, ack: Some(iss + 1), ..data(1, 0, request) };
        let sent = proxy.receive(&closing);
        let status = if request.ends_with(b"\r\n\r\n") { "404" } else { "400" };
        assert!(answer(&sent).0.contains(status) && answer(&sent).1, "{sent:?}");
        let fin_acknowledged = ISN + 2 + request.len() as u32;
        assert_eq!(sent.last().map(|sent| (sent.flags, sent.ack)), Some((Flags::ACK, fin_acknowledged)));
        let last = SegmentBuilder { ack: Some(end_of(&sent)), seq: fin_acknowledged, ..data(1, 0, b"") };
        assert_eq!(proxy.receive(&last), []);
        assert_eq!((proxy.pass(Duration::from_secs(60)), proxy.connections()), (vec![], 0));
    }
}

#[test]
fn a_client_that_closes_before_its_request_is_closed_cleanly() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let sent = proxy.receive(&SegmentBuilder { flags: Flags::FIN, ack: Some(iss + 1), ..data(1, 0, b"") });
    assert_eq!(sent.iter().map(|sent| sent.flags.rst()).collect::<Vec<_>>(), [false, false]);
    assert_eq!((end_of(&sent), sent[1].ack, stream(&sent, 1).len()), (iss + 2, ISN + 2, 0));
    proxy.receive(&SegmentBuilder { ack: Some(iss + 2), ..data(1, 1, b"") });
    assert_eq!((proxy.pass(Duration::from_secs(60)), proxy.connections()), (vec![], 0));
}

#[test]
fn a_slow_head_is_answered_408_a_silent_client_closed() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let mut sent = Vec::new();
    for (i, byte) in REQUEST.iter().enumerate().take(20) {
        sent.extend(proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, i as u32, &[*byte]) }));
        sent.extend(proxy.pass(Duration::from_secs(1)));
    }
    assert!(answer(&sent).0.contains("408"), "{sent:?}");

    let iss = proxy.establish(2);
    let sent = proxy.pass(Duration::from_secs(11));
    let to_silent = sent.iter().find(|sent| sent.to == client(2)).unwrap();
    assert!(to_silent.flags.fin() && to_silent.payload.is_empty() && to_silent.seq == iss + 1);
    proxy.pass(Duration::from_secs(60));
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_syn_in_time_wait_with_a_larger_number_opens_a_new_connection() {
    let mut proxy = Proxy::new();
    let (_, end) = ask(&mut proxy, b"nonsense\r\n\r\n");
    proxy.receive(&SegmentBuilder { flags: Flags::FIN, ack: Some(end), ..data(1, 12, b"") });
    let old = proxy.receive(&SegmentBuilder { seq: ISN + 3, ..crate::proxy::syn(1) });
    assert_eq!((old[0].flags, old[0].ack), (Flags::ACK, ISN + 14), "not beyond what was sent");
    let new = proxy.receive(&SegmentBuilder { seq: ISN + 5000, ..crate::proxy::syn(1) });
    assert_eq!((new[0].flags, new[0].ack), (crate::proxy::SYN_ACK, ISN + 5001));
}

#[test]
fn a_backend_that_resets_the_handshake_is_502_when_no_other_is_left() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let mut sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, REQUEST) });
    for last in [11, 12] {
        assert_eq!((sent[0].to, sent[0].flags), (backend(last), Flags::SYN));
        let refusal = SegmentBuilder {
            ack: Some(ISN + 1),
            flags: Flags::RST,
            ..SegmentBuilder::new(backend(last), client(1))
        };
        sent = proxy.receive(&refusal);
    }
    assert!(answer(&sent).0.contains("502") && answer(&sent).1, "{sent:?}");
    assert_eq!(sent[0].ack, ISN + 1 + REQUEST.len() as u32, "the request is acknowledged with its answer");
}
