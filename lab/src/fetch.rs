//! `lab fetch`: one document over one plain TCP connection, what the client noticed, and optionally a
//! failure of the web server in its middle.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::faults::Fault;
use crate::http::{Behaviour, Connection, End, Response};
use crate::lab::Lab;
use crate::topology::{Node, PORT, VIP};

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddrV4,
    /// The request's target.
    pub path: String,
}

impl Target {
    /// `/path` at the virtual address, or `http://ADDRESS[:PORT]/path`.
    pub fn parse(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            let path = url.strip_prefix('/').context("give a path or a URL that begins with http://")?;
            return Ok(Self { address: SocketAddrV4::new(VIP, PORT), path: format!("/{path}") });
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, "80"));
        let host: Ipv4Addr = host.parse().with_context(|| format!("{host}: give an IPv4 address"))?;
        let port = port.parse().with_context(|| format!("{port}: not a port"))?;
        Ok(Self { address: SocketAddrV4::new(host, port), path: format!("/{path}") })
    }
}

/// How to fetch it.
#[derive(Debug, Clone)]
pub struct Options {
    /// What.
    pub target: Target,
    /// Bytes read per second at most.
    pub rate: Option<u64>,
    /// Size of the socket's receive buffer, bytes.
    pub receive_buffer: Option<usize>,
    /// Longest wait for a byte.
    pub patience: Duration,
    /// Which failure of the web server that serves the connection, after how many body bytes.
    pub fail: Option<(Fault, u64)>,
}

/// What the client noticed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// All of the body came.
    pub complete: bool,
    /// How the response ended.
    pub end: End,
    /// Status code, 0 without a head.
    pub status: u16,
    /// Body bytes received.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: String,
    /// TCP connections used: this client makes no second one.
    pub connections: u32,
    /// The longest time without a byte, milliseconds; if the response was cut, up to that end.
    pub longest_gap_ms: f64,
    /// Bytes of the response that had come before it, head included.
    pub longest_gap_at: u64,
    /// From the request to the end, seconds.
    pub seconds: f64,
    /// The web server that was made to fail.
    pub failed: Option<Node>,
}

/// Fetches; `progress` is told the body bytes received. The failure is caused by another thread, so that it does not delay the client's reads.
pub fn fetch(lab: &Lab, options: &Options, progress: &mut dyn FnMut(u64)) -> Result<Report> {
    let behaviour = Behaviour {
        receive_buffer: options.receive_buffer,
        rate: options.rate,
        patience: options.patience,
        limit: Duration::MAX,
        ..Behaviour::default()
    };
    let mut connection = Connection::open(lab, options.target.address, behaviour)?;
    let client = connection.local()?;
    let (trigger, triggered) = mpsc::channel::<Fault>();
    thread::scope(|scope| {
        let failing = scope.spawn(move || match triggered.recv() {
            Ok(fault) => {
                let node = lab.serving(client)?;
                lab.fail(node, fault).map(|()| Some(node))
            }
            Err(_) => Ok(None),
        });
        let mut pending = options.fail;
        let response = connection.get_watched(&options.target.path, &mut |bytes| {
            progress(bytes);
            if let Some((fault, _)) = pending.take_if(|(_, at)| bytes >= *at) {
                trigger.send(fault)?;
            }
            Ok(())
        });
        drop(trigger);
        let failed = failing.join().map_err(|_| anyhow!("the failing thread panicked"))??;
        Ok(report(&response?, failed))
    })
}

fn report(response: &Response, failed: Option<Node>) -> Report {
    Report {
        complete: response.end == End::Complete,
        end: response.end,
        status: response.status,
        bytes: response.body_bytes,
        sha256: response.sha256.clone(),
        connections: 1,
        longest_gap_ms: response.longest_gap.as_secs_f64() * 1e3,
        longest_gap_at: response.longest_gap_at,
        seconds: response.took.as_secs_f64(),
        failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls() {
        let target = Target::parse("/files/1k").unwrap();
        assert_eq!((target.address, target.path.as_str()), ("10.77.0.1:80".parse().unwrap(), "/files/1k"));
        let target = Target::parse("http://10.77.3.2:8081/files/1k").unwrap();
        assert_eq!((target.address.port(), target.path.as_str()), (8081, "/files/1k"));
        assert!(Target::parse("files").is_err());
        assert!(Target::parse("http://example.com/").is_err());
    }
}
