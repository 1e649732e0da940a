//! How fast small messages are taken apart on one core: `cargo run --release -p http1 --example throughput`.
//!
//! Each message comes in one piece, as a small one comes in one segment. A transaction is a request and its response.

#![allow(clippy::disallowed_methods, reason = "a measurement owns a clock")]
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use http1::{Event, RequestFramer, ResponseFramer};

const BROWSER: &str = "GET /mail/?_task=mail&_action=list&_mbox=INBOX HTTP/1.1\r\nHost: mail.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\
    Cookie: roundcube_sessid=0123456789abcdef; roundcube_sessauth=abcdef\r\n\r\n";
const WRK: &str = "GET /files/1k HTTP/1.1\r\nHost: 203.0.113.10\r\n\r\n";
const NGINX: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 100\r\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\n\
    Connection: keep-alive\r\nETag: \"5f3e-64\"\r\nAccept-Ranges: bytes\r\n\r\n";
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n";

/// Messages that end in the bytes.
macro_rules! ends {
    ($framer:expr, $bytes:expr) => {{
        let (mut ends, mut rest) = (0, $bytes);
        loop {
            let step = $framer.feed(rest).unwrap();
            rest = &rest[step.consumed..];
            match step.event {
                Event::MessageEnd => ends += 1,
                Event::NeedMore => break ends,
                _ => {}
            }
        }
    }};
}

fn main() {
    let rounds: u32 = std::env::args().nth(1).map_or(300_000, |rounds| rounds.parse().unwrap());
    let length = format!("{NGINX}{}", "x".repeat(100));
    let chunked = format!("{CHUNKED}{}\r\n0\r\n\r\n", "x".repeat(0x32));
    println!("{:40} {:>16} {:>8}", "", "transactions/s", "MB/s");
    for (name, request, response) in [
        ("wrk and nginx, 100 bytes", WRK, &length),
        ("a browser and nginx, 100 bytes", BROWSER, &length),
        ("wrk and a chunk of 50 bytes", WRK, &chunked),
    ] {
        let (mut requests, mut responses) = (RequestFramer::new(65_536), ResponseFramer::new(65_536));
        let begin = Instant::now();
        let mut transactions = 0;
        for _ in 0..rounds {
            transactions += ends!(requests, request.as_bytes());
            responses.expect("GET").unwrap();
            assert_eq!(ends!(responses, response.as_bytes()), 1);
        }
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = f64::from(rounds) * (request.len() + response.len()) as f64;
        println!("{name:40} {:16.0} {:8.0}", f64::from(transactions) / seconds, bytes / seconds / 1e6);
    }
}
