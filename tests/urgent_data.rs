//! A client that sends urgent data in the middle of an upload: for the server it is data like any other, on both paths, so that
//! what the log has and what the server has are the same stream.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use anyhow::{Result, ensure};
use lab::http::{Behaviour, End, hex};
use lab::settings::{Path, Settings};
use lab::testing::in_lab;
use rustix::net::{SendFlags, send};
use sha2::{Digest, Sha256};

const BYTES: usize = 200_000;
/// Urgent bytes are sent after so many ordinary ones.
const DISTANCE: usize = 10_000;

fn urgent_bytes_arrive_in_their_place(path: Path) -> Result<()> {
    in_lab(&Settings { path, ..Settings::default() }, |lab| {
        let body: Vec<u8> = (0..BYTES).map(|at| (at * 7 % 251) as u8).collect();
        let mut connection = lab.open(Behaviour::default())?;
        let head = format!("POST /form HTTP/1.1\r\nHost: lab\r\nContent-Length: {BYTES}\r\n\r\n");
        connection.send(head.as_bytes())?;
        // Spliced, not only on its way there, when the first urgent byte comes.
        connection.send(&body[..DISTANCE])?;
        for piece in body[DISTANCE..].chunks(DISTANCE) {
            let (urgent, rest) = piece.split_at(1);
            ensure!(send(connection.stream(), urgent, SendFlags::OOB)? == 1, "no urgent byte was sent");
            connection.send(rest)?;
        }
        let answer = connection.receive(false, &mut |_| Ok(()))?;
        let expected = hex(&Sha256::digest(&body));
        ensure!(answer.end == End::Complete && answer.sha256 == expected, "{answer:?}");
        let again = lab.proxy_status()?.counters.get("segments_resent").copied().unwrap_or(0);
        ensure!(path == Path::Userspace || again > 0, "urgent segments passed by the kernel's splice");
        Ok(())
    })
}

#[test]
fn over_the_kernel_path() -> Result<()> {
    urgent_bytes_arrive_in_their_place(Path::Kernel)
}

#[test]
fn over_the_userspace_path() -> Result<()> {
    urgent_bytes_arrive_in_their_place(Path::Userspace)
}
