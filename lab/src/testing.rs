//! For tests: a lab of one's own that is gone afterwards however the test ends, and curl in it.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::daemons::Daemon;
use crate::documents;
use crate::faults::Fault;
use crate::http::{Behaviour, Connection, End, Response, hex};
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::settings::Settings;
use crate::topology::{DIRECT_PORT, Node, PORT, VIP};

/// One lab at a time in one test program: the figures of two would disturb each other on few cores.
static ALONE: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Seconds without a byte after which a curl has stalled.
const PATIENCE_S: i64 = 20;
/// Lines of each daemon's log that a failed test shows.
const LOG_LINES: usize = 60;

/// Runs a test in a lab with these settings. An error carries the daemons' logs.
pub fn in_lab(settings: &Settings, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let lab = OwnedLab::up(&format!("t{}-{number}", std::process::id()), settings)?;
    test(&lab).map_err(|error| anyhow!("{error:#}\n{}", lab.story()))
}

/// Waits until `condition` holds.
pub fn await_condition(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !condition().with_context(|| what.to_owned())? {
        ensure!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// SHA-256 of a document, by its path like `/files/1m`, as the backend would serve it untouched.
pub fn hash_of(path: &str) -> Result<String> {
    let name = path
        .trim_start_matches("/chunked/")
        .trim_start_matches("/uneven/")
        .trim_start_matches("/padded/")
        .trim_start_matches("/files/");
    let mut file = std::fs::File::open(documents::tree()?.join("files").join(name))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

impl Connection {
    /// Posts `body`, which the server echoes.
    pub fn post_echoed(&mut self, body: &[u8]) -> Result<()> {
        let head = format!("POST /echo HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(head.as_bytes())?;
        self.send(body)?;
        let answer = self.receive(false, &mut |_| Ok(()))?;
        ensure!(answer.status == 200 && answer.sha256 == hex(&Sha256::digest(body)), "echoed: {answer:?}");
        Ok(())
    }
}

impl Lab {
    /// What the daemons say, for a failed test.
    pub fn story(&self) -> String {
        let log = |daemon: Daemon| format!("---- {}\n{}\n", daemon.name(), self.log_tail(daemon, LOG_LINES));
        Daemon::ALL.map(log).concat()
    }

    /// The URL of a path at the virtual address.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.service())
    }

    /// The URL of a path on b1, past resplice.
    pub fn direct_url(&self, path: &str) -> String {
        format!("http://{}:{DIRECT_PORT}{path}", Node::B1.address())
    }

    /// Connects from the client's node to the virtual address.
    pub fn open(&self, behaviour: Behaviour) -> Result<Connection> {
        Connection::open(self, self.service(), behaviour)
    }

    /// The virtual address and port.
    pub fn service(&self) -> SocketAddr {
        let vip = self.record().map_or(IpAddr::V4(VIP), |record| record.settings.address(VIP));
        SocketAddr::new(vip, PORT)
    }

    /// Sends a GET and receives its answer; the web server that serves it fails when `offset` bytes of the
    /// body have come, and nothing is read meanwhile. Also returns which one failed.
    pub fn get_failing(
        &self,
        connection: &mut Connection,
        path: &str,
        fault: Fault,
        offset: u64,
    ) -> Result<(Response, Node)> {
        let client = connection.local()?;
        let mut failed = None;
        let response = connection.get_watched(path, &mut |bytes| {
            if failed.is_none() && bytes >= offset {
                let node = self.serving(client)?;
                self.fail(node, fault)?;
                failed = Some(node);
            }
            Ok(())
        })?;
        Ok((response, failed.context("the answer ended before the failure")?))
    }

    /// What `ss` says of the TCP connection whose client's end is this one, on this node.
    pub fn socket(&self, node: Node, client: SocketAddr) -> Result<Option<String>> {
        let text = self.netns(node).run(Command::new("ss").args(["-tinoHO", "state", "established"]))?;
        let client = client.to_string();
        let line = text.lines().find(|line| line.split_whitespace().any(|word| word == client));
        Ok(line.map(str::to_owned))
    }

    /// A command on the client's node, finished; its standard output.
    pub fn on_client(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.netns(Node::Client).run(Command::new(program).args(arguments))
    }

    /// Starts curl on the client's node. Nothing reads its output yet, so it soon waits.
    pub fn curl(&self, arguments: &[&str]) -> Result<Curl> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "-w", "%{stderr}%{json}\n"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.netns(Node::Client).spawn(&mut command)?;
        let body = child.stdout.take().context("curl without standard output")?;
        Ok(Curl { lab: self.clone(), child, body, hash: Sha256::new(), bytes: 0 })
    }
}

/// A running curl, read by the test: when the test does not read, curl does not either.
pub struct Curl {
    lab: Lab,
    child: Child,
    body: ChildStdout,
    hash: Sha256,
    bytes: u64,
}

/// What curl says of one transfer, and the sum of all it received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// curl's exit status; 18: the transfer was cut, 56: the connection was reset.
    pub exit: i32,
    /// Bytes received, of all transfers.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: String,
    /// TCP connections that curl made, in all transfers.
    pub connects: u32,
    /// Status of the last transfer.
    pub status: u16,
    /// curl's complaint, if any.
    pub complaint: String,
}

#[derive(Deserialize)]
struct Written {
    num_connects: u32,
    http_code: u16,
}

impl Curl {
    /// Reads until this many bytes have been received, or the end.
    pub fn read_to(&mut self, bytes: u64) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while self.bytes < bytes {
            let room = (bytes - self.bytes).min(buffer.len() as u64) as usize;
            self.await_output()?;
            let length = self.body.read(buffer.get_mut(..room).unwrap_or_default())?;
            if length == 0 {
                return Ok(());
            }
            self.hash.update(buffer.get(..length).unwrap_or_default());
            self.bytes += length as u64;
        }
        Ok(())
    }

    /// A curl that gets nothing for long is stopped, after a look at why.
    fn await_output(&mut self) -> Result<()> {
        let mut output = [PollFd::new(&self.body, PollFlags::IN)];
        if poll(&mut output, Some(&Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 }))? > 0 {
            return Ok(());
        }
        self.lab.show_evidence(&format!("curl gets nothing after {} bytes", self.bytes));
        self.child.kill()?;
        bail!("curl got nothing for {PATIENCE_S} s after {} bytes", self.bytes)
    }

    /// Reads the rest.
    pub fn finish(mut self) -> Result<Fetched> {
        self.read_to(u64::MAX)?;
        let stderr = self.child.stderr.take().context("curl without standard error")?;
        let (mut connects, mut status, mut complaint) = (0, 0, String::new());
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            if let Ok(written) = serde_json::from_str::<Written>(&line) {
                connects += written.num_connects;
                status = written.http_code;
            } else {
                complaint += &line;
            }
        }
        let exit = self.child.wait()?.code().unwrap_or(-1);
        Ok(Fetched {
            exit,
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
            connects,
            status,
            complaint,
        })
    }
}

impl Fetched {
    /// Refuses anything but: no error, one connection, status 200 and exactly the document's bytes.
    pub fn check(&self, path: &str) -> Result<()> {
        ensure!(self.exit == 0, "{path}: curl failed: {self:?}");
        ensure!(self.status == 200, "{path}: {self:?}");
        ensure!(self.connects == 1, "{path}: more than one connection: {self:?}");
        ensure!(self.sha256 == hash_of(path)?, "{path}: other bytes: {self:?}");
        Ok(())
    }
}

impl Response {
    /// Refuses anything but: complete, status 200 and exactly the document's bytes.
    pub fn check(&self, path: &str) -> Result<()> {
        ensure!(self.end == End::Complete && self.status == 200, "{path}: {self:?}");
        ensure!(self.sha256 == hash_of(path)?, "{path}: other bytes: {self:?}");
        Ok(())
    }
}
