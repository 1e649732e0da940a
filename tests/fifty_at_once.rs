//! Many connections of one server fail together.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::thread;

use anyhow::{Result, anyhow, ensure};
use lab::settings::{Path, Settings};
use lab::testing::{Curl, in_lab};
use lab::{Fault, Node};

const CLIENTS: usize = 50;
/// All that they could ever fetch.
const RING: u64 = 1 << 29;

fn all_survive(path: Path, fault: Fault) -> Result<()> {
    let set = vec![format!("logger.logger.ring_bytes={RING}")];
    in_lab(&Settings { path, set, ..Settings::default() }, |lab| {
        let urls = ["/files/10m", "/chunked/10m"];
        let mut curls: Vec<(Curl, &str)> = Vec::new();
        for url in urls.into_iter().cycle().take(CLIENTS) {
            curls.push((lab.curl(&[&lab.url(url)])?, url));
        }
        // Each has some of its answer; none has all of it, for nobody reads on.
        for (curl, _) in &mut curls {
            curl.read_to(10_000)?;
        }
        let served = |node: Node| lab.connections(node).map(|connections| connections.len());
        let busiest = if served(Node::B1)? >= served(Node::B2)? { Node::B1 } else { Node::B2 };
        ensure!(served(busiest)? >= CLIENTS / 2, "only {} connections on {busiest}", served(busiest)?);
        lab.fail(busiest, fault)?;
        thread::scope(|scope| {
            let readers: Vec<_> =
                curls.into_iter().map(|(curl, url)| scope.spawn(move || curl.finish()?.check(url))).collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().map_err(|_| anyhow!("a reader panicked"))?)
        })
    })
}

#[test]
fn killed() -> Result<()> {
    all_survive(Path::Kernel, Fault::Kill)
}

#[test]
fn killed_on_the_userspace_path() -> Result<()> {
    all_survive(Path::Userspace, Fault::Kill)
}

#[test]
fn silent() -> Result<()> {
    all_survive(Path::Kernel, Fault::Silent)
}
