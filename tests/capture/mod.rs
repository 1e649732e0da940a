//! Captures by tcpdump, parsed by etherparse.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};
use lab::process::Process;
use lab::testing::await_condition;
use lab::{Lab, Node};
use rustix::process::Signal;

/// A running tcpdump.
pub(crate) struct Capture {
    child: Child,
    file: PathBuf,
}

/// One TCP segment as captured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    pub(crate) from_server: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) psh: bool,
    pub(crate) window: u16,
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) sack: Vec<(u32, u32)>,
    pub(crate) length: usize,
    pub(crate) payload_hash: u64,
    pub(crate) checksum_ok: bool,
}

impl Capture {
    /// Captures TCP on an interface; it captures when this returns.
    pub(crate) fn start(lab: &Lab, node: Node, interface: &str) -> Result<Self> {
        let file = lab.dir().join(format!("{node}-{interface}.pcap"));
        let mut command = Command::new("tcpdump");
        command
            .args([
                "-n",
                "-U",
                "--immediate-mode",
                "-s",
                "0",
                "-B",
                "65536",
                "-Z",
                "root",
                "-i",
                interface,
                "-w",
            ])
            .arg(&file);
        command.args(["tcp", "and", "(port 80 or port 8080)"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = lab.netns(node).spawn(&mut command)?;
        let mut stderr = BufReader::new(child.stderr.take().context("no standard error")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(stderr.read_line(&mut line)? > 0, "tcpdump ended at once");
        }
        // Kept open: tcpdump reports its counts at the end.
        child.stderr = Some(stderr.into_inner());
        Ok(Self { child, file })
    }

    /// Waits until both sides' FIN are in the file, ends the capture, and returns all of it.
    pub(crate) fn finish(mut self) -> Result<Vec<Segment>> {
        await_condition("both FINs in the capture", Duration::from_secs(10), || {
            // A packet that is being written makes the file's end unreadable for a moment.
            let segments = parse_file(&std::fs::read(&self.file)?).unwrap_or_default();
            Ok(end(&segments).is_some())
        })?;
        Process::running(self.child.id()).context("tcpdump is gone")?.signal(Signal::INT);
        self.child.wait()?;
        parse_file(&std::fs::read(&self.file)?)
    }
}

/// Behind the last FIN; `None`: a side has not closed.
pub(crate) fn end(segments: &[Segment]) -> Option<usize> {
    let closed =
        |from_server| segments.iter().rposition(|segment| segment.fin && segment.from_server == from_server);
    closed(true).zip(closed(false)).map(|(server, client)| server.max(client) + 1)
}

/// The classic file format: a header of 24 bytes, then 16 bytes before each packet.
fn parse_file(bytes: &[u8]) -> Result<Vec<Segment>> {
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes);
    ensure!(word(0) == Some(0xa1b2_c3d4), "not a capture of this machine");
    let mut segments = Vec::new();
    let mut at = 24;
    while let Some(length) = word(at + 8) {
        let packet = bytes.get(at + 16..at + 16 + length as usize).context("a truncated capture")?;
        segments.extend(parse(packet)?);
        at += 16 + length as usize;
    }
    Ok(segments)
}

fn parse(frame: &[u8]) -> Result<Option<Segment>> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
        return Ok(None);
    };
    let (mut timestamps, mut sack) = (None, Vec::new());
    for option in tcp.options_iterator() {
        match option? {
            TcpOptionElement::Timestamp(value, echo) => timestamps = Some((value, echo)),
            TcpOptionElement::SelectiveAcknowledgement(first, more) => {
                sack.push(first);
                sack.extend(more.into_iter().flatten());
            }
            _ => {}
        }
    }
    let header = ip.header();
    let mut hash = DefaultHasher::new();
    tcp.payload().hash(&mut hash);
    Ok(Some(Segment {
        from_server: Ipv4Addr::from(header.source()) != Node::Client.address(),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        psh: tcp.psh(),
        window: tcp.window_size(),
        timestamps,
        sack,
        length: tcp.payload().len(),
        payload_hash: hash.finish(),
        checksum_ok: are_equal(
            tcp.checksum(),
            tcp.calc_checksum_ipv4(header.source(), header.destination())?,
        ),
    }))
}

/// One's complement has two zeros (RFC 1071), and a kernel that completes a checksum itself writes 0xffff for 0 (`skb_checksum_help`).
fn are_equal(one: u16, other: u16) -> bool {
    one % 0xffff == other % 0xffff
}
