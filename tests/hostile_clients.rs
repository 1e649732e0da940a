//! Clients that mean harm or know no better, while others download: nothing panics, nobody else notices.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection, End};
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};
use lab::topology::{PORT, VIP};
use lab::{Daemon, Lab, Node};
use packet::{Flags, SegmentBuilder, Seq};

fn open(lab: &Lab) -> Result<Connection> {
    let behaviour = Behaviour { patience: Duration::from_secs(15), ..Behaviour::default() };
    lab.open(behaviour)
}

/// Runs `abuse` in the middle of somebody else's download, and checks that nothing else changed.
fn beside_a_download(settings: &Settings, abuse: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    in_lab(settings, |lab| {
        let before = Daemon::ALL.map(|daemon| lab.daemon(daemon));
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(1_000_000)?;
        abuse(lab)?;
        curl.finish()?.check("/files/300m")?;
        lab.curl(&[&lab.url("/files/1m")])?.finish()?.check("/files/1m")?;
        ensure!(Daemon::ALL.map(|daemon| lab.daemon(daemon)) == before, "a daemon died");
        for daemon in Daemon::ALL {
            let log = std::fs::read_to_string(lab.log(daemon.name()))?;
            ensure!(!log.contains("panicked"), "{}:\n{log}", daemon.name());
        }
        Ok(())
    })
}

/// Sends bytes, expects an answer of one of these status codes and then the end of the connection.
fn is_answered(lab: &Lab, bytes: &[u8], statuses: &[u16]) -> Result<()> {
    let what = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    let mut connection = open(lab)?;
    // The answer may come, and the connection end, before all has been sent.
    let _ = connection.stream().write_all(bytes);
    let response = connection.receive(false, &mut |_| Ok(())).with_context(|| what.clone())?;
    ensure!(statuses.contains(&response.status), "{what:?}: {response:?}");
    let mut rest = Vec::new();
    let end = connection.stream().read_to_end(&mut rest);
    ensure!(!end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{what:?}: left open");
    Ok(())
}

#[test]
fn garbage_and_forbidden_requests() -> Result<()> {
    beside_a_download(&Settings::default(), |lab| {
        is_answered(lab, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400])?;
        is_answered(lab, b"hello\r\n\r\n", &[400])?;
        is_answered(lab, b"GET / HTTP/1.1\r\n\r\n", &[400])?;
        is_answered(lab, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400])?;
        is_answered(lab, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", &[400])?;
        is_answered(lab, b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", &[400])?;
        let both =
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        is_answered(lab, both, &[400])?;
        is_answered(
            lab,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            &[400],
        )?;
        is_answered(lab, b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", &[400, 505])?;
        let zeros = [0_u8; 4000];
        is_answered(lab, &[&zeros[..], b"\r\n\r\n"].concat(), &[400])
    })
}

#[test]
fn an_endless_head() -> Result<()> {
    beside_a_download(&Settings::default(), |lab| {
        let head = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(), vec![b'x'; 200_000]].concat();
        is_answered(lab, &head, &[431, 400])?;
        let uri = [b"GET /".to_vec(), vec![b'x'; 200_000]].concat();
        is_answered(lab, &uri, &[414, 431, 400])
    })
}

/// Without the fast path, whose program keeps nothing of a client before it speaks, and has nothing to forget.
#[test]
fn a_client_that_says_nothing_or_not_enough() -> Result<()> {
    let set = vec!["splice.request_head_timeout_ms=1500".into(), "splice.fast_path=false".into()];
    let settings = Settings { set, ..Settings::default() };
    beside_a_download(&settings, |lab| {
        let mut silent = open(lab)?;
        let mut slow = open(lab)?;
        slow.send(b"GET / HTTP/1.1\r\nHo")?;
        for connection in [&mut silent, &mut slow] {
            let response = connection.receive(false, &mut |_| Ok(()))?;
            ensure!(response.status == 408 || response.end != End::Stalled, "{response:?}");
        }
        await_condition("the proxy has forgotten them", Duration::from_secs(10), || {
            Ok(lab
                .proxy_status()?
                .connections
                .iter()
                .all(|connection| connection.state.starts_with("spliced")))
        })
    })
}

#[test]
fn clients_that_leave_in_the_middle() -> Result<()> {
    beside_a_download(&Settings::default(), |lab| {
        for request in ["", "GET /fil", "GET /files/300m HTTP/1.1\r\nHost: lab\r\n\r\n"] {
            for _ in 0..5 {
                let mut connection = open(lab)?;
                connection.send(request.as_bytes())?;
                // Unread data makes the kernel send a RST instead of a FIN.
                if request.len() > 20 {
                    connection.await_readable(1000)?;
                }
            }
        }
        let mut half = open(lab)?;
        half.stream().shutdown(Shutdown::Write)?;
        let response = half.receive(false, &mut |_| Ok(()))?;
        ensure!(response.end != End::Stalled, "a client that ends before its request hangs: {response:?}");
        Ok(())
    })
}

/// Bare segments from a raw socket: no handshake, wrong cookies, nonsense flags, SYN floods.
#[test]
fn segments_from_nowhere() -> Result<()> {
    let settings = Settings { set: vec!["splice.half_open=64".into()], ..Settings::default() };
    beside_a_download(&settings, |lab| {
        let mut raw = lab.netns(Node::Client).within(|| Ok(netfilter::raw::RawSender::open(0)?))?;
        let vip = SocketAddr::from((VIP, PORT));
        let mut count = 0_u32;
        let mut send = |flags: Flags, payload: &[u8]| -> Result<()> {
            count += 1;
            let from = SocketAddr::from((Node::Client.address(), 20_000 + (count % 10_000) as u16));
            let mut segment = SegmentBuilder::new(from, vip);
            segment.seq = Seq(count.wrapping_mul(0x9e37_79b9));
            segment.ack = flags.contains(Flags::ACK).then(|| Seq(count.wrapping_mul(0x85eb_ca6b)));
            segment.flags = flags;
            segment.window = 1000;
            segment.payload = payload;
            Ok(raw.send(&segment.build())?)
        };
        for _ in 0..200 {
            send(Flags::ACK, b"")?;
            send(Flags::ACK.union(Flags::PSH), b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
            send(Flags::SYN.union(Flags::FIN), b"")?;
            send(Flags::SYN.union(Flags::ACK), b"")?;
            send(Flags::RST, b"")?;
            send(Flags::FIN.union(Flags::ACK), b"")?;
            send(Flags::SYN, b"data on a SYN")?;
        }
        for _ in 0..2000 {
            send(Flags::SYN, b"")?;
        }
        Ok(())
    })
}
