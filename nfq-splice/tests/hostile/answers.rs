//! Answers of the proxy's own.

use std::time::Duration;

use packet::{Flags, SegmentBuilder};

use crate::proxy::{ISN, Proxy, REQUEST, RST_ACK, Sent, client, data};

/// The status line of what the proxy answered, and whether it closed.
pub(crate) fn answer(sent: &[Sent]) -> (String, bool) {
    let mut pieces: Vec<&Sent> = sent.iter().filter(|sent| !sent.payload.is_empty()).collect();
    pieces.sort_by(|a, b| a.seq.since(b.seq).cmp(&0));
    let bytes: Vec<u8> = pieces.iter().flat_map(|sent| sent.payload.clone()).collect();
    let closes = sent.iter().any(|sent| sent.flags.fin());
    (String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned(), closes)
}

#[test]
fn bad_requests_are_answered_and_the_connection_closed() {
    let long = format!("GET /known HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1100));
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(1100));
    for (request, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00garbage\r\n\r\n"[..], "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"GET /known HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        (b"GET /unknown HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        (long.as_bytes(), "431"),
        (uri.as_bytes(), "414"),
    ] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let sent = proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, request) });
        let (line, closes) = answer(&sent);
        let shown = String::from_utf8_lossy(request);
        assert!(line.contains(status) && closes, "{status} expected, got {line:?} for {shown:?}");
        let end = sent.iter().map(|sent| sent.seq + sent.payload.len() as u32 + 1).next_back().unwrap();
        let fin = SegmentBuilder { flags: Flags::FIN, ack: Some(end), ..data(1, request.len() as u32, b"") };
        let last = proxy.receive(&fin);
        assert_eq!(last.last().map(|sent| sent.ack), Some(ISN + 2 + request.len() as u32));
        assert_eq!(proxy.connections(), 0, "{status}");
    }
}

#[test]
fn an_answer_is_repeated_then_the_client_is_reset() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, 0, b"nonsense\r\n\r\n") });
    let sent = proxy.pass(Duration::from_secs(60));
    assert!(sent.len() >= 3, "{sent:?}");
    assert_eq!(sent.last().map(|sent| sent.flags), Some(RST_ACK));
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_slow_head_is_answered_408_a_silent_client_reset() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let mut sent = Vec::new();
    for (i, byte) in REQUEST.iter().enumerate().take(20) {
        sent.extend(proxy.receive(&SegmentBuilder { ack: Some(iss + 1), ..data(1, i as u32, &[*byte]) }));
        sent.extend(proxy.pass(Duration::from_secs(1)));
    }
    assert!(answer(&sent).0.contains("408"), "{sent:?}");

    proxy.establish(2);
    let sent = proxy.pass(Duration::from_secs(60));
    assert!(sent.iter().any(|sent| sent.to == client(2) && sent.flags == RST_ACK));
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_client_that_closes_before_its_request_is_reset_and_forgotten() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    let sent = proxy.receive(&SegmentBuilder { flags: Flags::FIN, ack: Some(iss + 1), ..data(1, 0, b"") });
    assert_eq!(sent.last().map(|sent| sent.flags), Some(RST_ACK));
    assert_eq!(proxy.connections(), 0);
}
