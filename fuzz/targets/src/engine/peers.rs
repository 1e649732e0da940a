//! Who talks to the proxy, and how nearly right.

use std::net::SocketAddr;

use packet::{Seq, SynOptions};

pub(super) const CLIENTS: usize = 5;
pub(super) const BACKENDS: usize = 3;

pub(super) const CONFIG: &str = r#"
[cluster]
name = "fuzz"
[service]
address = "203.0.113.80:80"
[[route]]
path_prefix = "/a"
pool = "web"
[pool.web]
backends = ["b0", "b1", "b2"]
[backend.b0]
address = "10.0.1.10:80"
[backend.b1]
address = "10.0.1.11:80"
[backend.b2]
address = "10.0.1.12:80"
[proxy.p1]
address = "10.0.2.2"
[logger.l1]
control = "10.0.2.1:7070"
[splice]
half_open = 3
connections = 4
request_head_bytes = 1024
path = "PATH"
"#;

/// What clients say; cut anywhere.
pub(super) const REQUESTS: [&[u8]; 4] = [
    b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345",
    b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/0.9\r\n\r\n",
];

/// What backends say.
pub(super) const RESPONSE: &[u8] =
    b"HTTP/1.1 206 Partial Content\r\nDate: now\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\nabcd";

pub(super) fn service() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 80], 80))
}

pub(super) fn client(number: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 1000 + number as u16))
}

pub(super) fn backend(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, 10 + number as u8], 80))
}

pub(super) fn number_of_client(address: SocketAddr) -> Option<usize> {
    (0..CLIENTS).find(|number| client(*number) == address)
}

pub(super) fn number_of_backend(address: SocketAddr) -> Option<usize> {
    (0..BACKENDS).find(|number| backend(*number) == address)
}

/// Each bit one option.
pub(super) fn syn_options(bits: u8) -> SynOptions {
    SynOptions {
        mss: (bits & 1 != 0).then_some(if bits & 2 != 0 { 1460 } else { 90 }),
        window_scale: (bits & 4 != 0).then_some(bits >> 5),
        sack_permitted: bits & 8 != 0,
        timestamp: (bits & 16 != 0).then_some(u32::MAX - 5),
    }
}

/// What a peer believes of its two directions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peer {
    /// Its own first sequence number.
    pub(super) isn: Seq,
    /// Its next one.
    pub(super) next: Seq,
    /// The other side's next one.
    pub(super) other: Seq,
    /// It uses timestamps.
    pub(super) timestamps: bool,
}
