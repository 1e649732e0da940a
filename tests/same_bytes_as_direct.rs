//! Normal operation: through resplice a client gets exactly what it would get directly.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]

use std::net::{Shutdown, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, Connection, End, get_request};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use lab::topology::{DIRECT_PORT, PORT, VIP};
use lab::{Lab, Node};

/// On the userspace path without the fast path, so that `nfq-splice` itself translates.
fn with_path(path: Path) -> Settings {
    let set = if path == Path::Userspace { vec!["splice.fast_path=false".into()] } else { Vec::new() };
    Settings { path, set, ..Settings::default() }
}

fn documents_uploads_and_sessions(path: Path) -> Result<()> {
    in_lab(&with_path(path), |lab| {
        every_document(lab).context("documents")?;
        one_session(lab).context("a session")?;
        uploads(lab).context("uploads")?;
        pipelined(lab).context("pipelining")?;
        head_has_no_body(lab).context("HEAD")?;
        let injected = lab.proxy_status()?.counters.get("packets_injected").copied();
        ensure!(path == Path::Kernel || injected > Some(0), "{injected:?} packets injected");
        Ok(())
    })
}

#[test]
fn over_the_kernel_path() -> Result<()> {
    documents_uploads_and_sessions(Path::Kernel)
}

#[test]
fn over_the_userspace_path() -> Result<()> {
    documents_uploads_and_sessions(Path::Userspace)
}

fn every_document(lab: &Lab) -> Result<()> {
    for (size, _) in lab::documents::FILES {
        for path in [format!("/files/{size}"), format!("/chunked/{size}")] {
            lab.curl(&[&lab.url(&path)])?.finish()?.check(&path)?;
        }
    }
    Ok(())
}

/// Many documents, one connection.
fn one_session(lab: &Lab) -> Result<()> {
    let urls: Vec<String> =
        ["/files/1k", "/chunked/64k", "/files/0", "/files/10m", "/padded/1k", "/files/1k"]
            .map(|path| lab.url(path))
            .into();
    let arguments: Vec<&str> = urls.iter().map(String::as_str).collect();
    let fetched = lab.curl(&arguments)?.finish()?;
    ensure!(fetched.exit == 0 && fetched.connects == 1, "{fetched:?}");
    let direct: Vec<String> =
        urls.iter().map(|url| url.replace(&lab.url("/"), &lab.direct_url("/"))).collect();
    let arguments: Vec<&str> = direct.iter().map(String::as_str).collect();
    let expected = lab.curl(&arguments)?.finish()?;
    ensure!(fetched.sha256 == expected.sha256, "{fetched:?} instead of {expected:?}");
    Ok(())
}

fn uploads(lab: &Lab) -> Result<()> {
    for size in ["0", "1k", "64k", "1m", "10m"] {
        let document = lab::documents::tree()?.join("files").join(size);
        let data = format!("@{}", document.display());
        // With and without waiting for 100 Continue.
        for header in ["Expect:", "Expect: 100-continue"] {
            let fetched = lab.curl(&["-H", header, "--data-binary", &data, &lab.url("/form")])?.finish()?;
            fetched.check(&format!("/files/{size}"))?;
        }
    }
    Ok(())
}

fn pipelined(lab: &Lab) -> Result<()> {
    let mut connection = lab.open(Behaviour::default())?;
    let paths = ["/files/64k", "/files/1k", "/chunked/1m", "/files/0", "/files/1m"];
    connection.send(&paths.map(get_request).concat())?;
    for path in paths {
        connection.receive(false, &mut |_| Ok(()))?.check(path)?;
    }
    Ok(())
}

fn head_has_no_body(lab: &Lab) -> Result<()> {
    let mut connection = lab.open(Behaviour::default())?;
    connection.send(b"HEAD /files/1m HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let head = connection.receive(true, &mut |_| Ok(()))?;
    ensure!(head.status == 200 && String::from_utf8_lossy(&head.head).contains("Content-Length: 1000000"));
    connection.get("/files/1k")?.check("/files/1k").context("after HEAD")
}

/// A request that arrives byte by byte, in as many segments.
#[test]
fn a_request_in_many_segments() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        for byte in get_request("/files/64k") {
            connection.send(&[byte])?;
        }
        connection.receive(false, &mut |_| Ok(()))?.check("/files/64k")
    })
}

/// A head that does not fit into a client's first flight: the rest comes only if the beginning is acknowledged.
#[test]
fn a_request_with_a_large_head() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let cookie = format!("Cookie: {}", "c".repeat(4_000));
        let fetched = lab.curl(&[
            "-H",
            &cookie,
            "-H",
            &cookie,
            "-H",
            &cookie,
            "-H",
            &cookie,
            "-H",
            &cookie,
            &lab.url("/files/1m"),
        ])?;
        fetched.finish()?.check("/files/1m")
    })
}

/// Half-close: the client ends its direction with the request. nginx cuts a long answer when it reads that
/// end; through resplice the client gets all of it or sees the same cut, but is not reset.
#[test]
fn a_client_that_has_finished_sending() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let direct = SocketAddrV4::new(Node::B1.address(), DIRECT_PORT);
        for path in ["/files/1k", "/files/1m", "/files/10m"] {
            let end_from = |address| -> Result<End> {
                let mut connection = Connection::open(lab, address, Behaviour::default())?;
                connection.send(&get_request(path))?;
                connection.stream().shutdown(Shutdown::Write)?;
                Ok(connection.receive(false, &mut |_| Ok(()))?.end)
            };
            let (directly, here) = (end_from(direct)?, end_from(SocketAddrV4::new(VIP, PORT))?);
            ensure!(here == End::Complete || here == directly, "{path}: {here:?}, directly {directly:?}");
        }
        Ok(())
    })
}

#[test]
fn wrk_reports_no_error() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let url = lab.url("/files/1k");
        let said = lab.on_client("wrk", &["-t2", "-c32", "-d3s", "--timeout", "5s", &url])?;
        ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        ensure!(said.contains("requests in"), "{said}");
        Ok(())
    })
}

/// A connection that says nothing for a while is still there.
#[test]
fn a_pause_between_requests_does_no_harm() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.get("/files/1k")?.check("/files/1k")?;
        std::thread::sleep(Duration::from_secs(3));
        connection.get("/files/64k")?.check("/files/64k")
    })
}
