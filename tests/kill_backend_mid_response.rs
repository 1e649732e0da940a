//! The main job: the server process is killed in the middle of a response, curl gets every byte of it on
//! the connection that it has.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::http::{Behaviour, get_request};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Fault, Lab};

const SIZE: u64 = 300_000_000;

/// Kills the server when curl has been given this many bytes.
fn kill_at(lab: &Lab, path: &str, offset: u64) -> Result<()> {
    let mut curl = lab.curl(&[&lab.url(path)])?;
    curl.read_to(offset)?;
    let node = lab.serving_any()?;
    lab.fail(node, Fault::Kill)?;
    let fetched = curl.finish()?;
    fetched.check(path).with_context(|| format!("{node} killed at byte {offset}"))?;
    lab.heal(node)?;
    lab.await_backends()
}

#[test]
fn a_download_survives_wherever_it_is_hit() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        for offset in [1, 1_400, 1_000_000, SIZE / 2, SIZE - 20_000_000, SIZE - 1_000_000] {
            kill_at(lab, "/files/300m", offset)?;
        }
        Ok(())
    })
}

#[test]
fn so_does_a_chunked_one() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        kill_at(lab, "/chunked/10m", 1)?;
        kill_at(lab, "/chunked/300m", SIZE / 3)
    })
}

/// The client's chunk is filled with the alternate's content.
#[test]
fn so_does_one_that_the_alternate_cuts_into_other_chunks() -> Result<()> {
    for path in [Path::Kernel, Path::Userspace] {
        in_lab(&Settings { path, ..Settings::default() }, |lab| {
            for offset in [1, 3_000_000, 9_000_000] {
                kill_at(lab, "/uneven/10m", offset)?;
            }
            kill_at(lab, "/uneven/300m", SIZE / 3)?;
            let rechunked = lab.proxy_status()?.counters.get("responses_rechunked").copied();
            ensure!(rechunked >= Some(1), "{rechunked:?} responses in other chunks");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn so_does_one_without_the_fast_path() -> Result<()> {
    for path in [Path::Kernel, Path::Userspace] {
        let set = vec!["splice.fast_path=false".into()];
        in_lab(&Settings { path, set, ..Settings::default() }, |lab| {
            for offset in [1, SIZE / 2] {
                kill_at(lab, "/files/300m", offset)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn so_does_one_over_the_userspace_path() -> Result<()> {
    let settings = Settings { path: Path::Userspace, ..Settings::default() };
    in_lab(&settings, |lab| {
        for offset in [1, SIZE / 2, SIZE - 1_000_000] {
            kill_at(lab, "/files/300m", offset)?;
        }
        Ok(())
    })
}

/// Small buffers at both ends: what a killed server left with its kernel is little, so that the place of
/// the failure in the response is nearly exact, also in the first and in the last segments.
#[test]
fn exact_places_with_small_buffers() -> Result<()> {
    let settings = Settings { send_buffer: Some(8 << 10), ..Settings::default() };
    in_lab(&settings, |lab| {
        for offset in [1, 1_500, 20_000, 100_000, 300_000, 700_000, 980_000, 999_000, 999_999] {
            let behaviour = Behaviour { receive_buffer: Some(8 << 10), ..Behaviour::default() };
            let mut connection = lab.open(behaviour)?;
            let (response, node) = lab.get_failing(&mut connection, "/files/1m", Fault::Kill, offset)?;
            response.check("/files/1m").with_context(|| format!("killed at byte {offset}"))?;
            lab.heal(node)?;
            lab.await_backends()?;
        }
        Ok(())
    })
}

/// The server has the request and has not begun its answer.
#[test]
fn before_the_first_byte_of_the_head() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut connection = lab.open(Behaviour::default())?;
        connection.get("/files/1k")?.check("/files/1k")?;
        let client = connection.local()?;
        let node = lab.serving(client)?;
        lab.fail(node, Fault::Freeze)?;
        connection.send(&get_request("/files/1m"))?;
        await_condition("the request has arrived", Duration::from_secs(5), || {
            Ok(lab.connections(node)?.iter().any(|served| served.peer == client && served.unread > 0))
        })?;
        lab.fail(node, Fault::Kill)?;
        connection.receive(false, &mut |_| Ok(()))?.check("/files/1m")
    })
}

/// One failure after the other on the same connection.
#[test]
fn twice_in_one_download() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(50_000_000)?;
        let first = lab.serving_any()?;
        lab.fail(first, Fault::Kill)?;
        curl.read_to(120_000_000)?;
        lab.heal(first)?;
        lab.await_backends()?;
        let second = lab.serving_any()?;
        ensure!(second != first, "still served by the killed {first}");
        lab.fail(second, Fault::Kill)?;
        curl.finish()?.check("/files/300m")
    })
}

/// The server's kernel closes with a RST.
#[test]
fn a_reset_instead_of_an_end() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let mut curl = lab.curl(&[&lab.url("/files/300m")])?;
        curl.read_to(50_000_000)?;
        lab.fail(lab.serving_any()?, Fault::Reset)?;
        curl.finish()?.check("/files/300m")
    })
}
