//! Many downloads in one thread, each read slowly, so that they last and the machine is not busy with them.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
    sockopt,
};

/// Each reads so much, when it is its turn
const PIECE: usize = 8 << 10;
/// of so many turns, so that not all are read at the same moment,
const TURNS: usize = 10;
/// each of this length: 32 KiB a second. A thousand of them are less than all hosts of a lab carry on two cores; at more
/// than that packets wait in queues before anything fails, and what is measured is those queues.
const TURN: Duration = Duration::from_millis(25);
/// A socket's receive buffer, bytes: what has arrived but is not read is small.
const BUFFER: usize = 64 << 10;
/// Longest head.
const MAX_HEAD: usize = 4 << 10;
/// How long nothing may come on any of them in the end.
const STALL: Duration = Duration::from_secs(15);

struct Download {
    socket: OwnedFd,
    /// Until its end has come.
    head: Option<Vec<u8>>,
    /// Body bytes.
    received: usize,
}

/// Downloads of one document.
pub(super) struct Downloads {
    all: Vec<Download>,
    buffer: Vec<u8>,
    length: usize,
    turn: usize,
}

impl Downloads {
    /// Begins `count` of them, of the namespace that the thread is in.
    pub(super) fn start(to: SocketAddrV4, path: &str, count: usize) -> Result<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
        let open = |_| Download::start(to, request.as_bytes());
        let all = (0..count).map(open).collect::<Result<_>>()?;
        Ok(Self { all, buffer: vec![0; 64 << 10], length: usize::MAX, turn: 0 })
    }

    /// How many have not ended.
    pub(super) fn running(&self) -> usize {
        self.all.iter().filter(|download| download.received < self.length).count()
    }

    /// Reads slowly, comparing with `document`.
    pub(super) fn run_for(&mut self, length: Duration, document: &[u8]) -> Result<()> {
        self.length = document.len();
        let started = Instant::now();
        while started.elapsed() < length {
            let turn = Instant::now();
            self.turn = (self.turn + 1) % TURNS;
            self.read(PIECE, (self.turn, TURNS), document)?;
            std::thread::sleep(TURN.saturating_sub(turn.elapsed()));
        }
        Ok(())
    }

    /// Reads what is left, as fast as it comes.
    pub(super) fn finish(&mut self, document: &[u8]) -> Result<()> {
        let mut last = Instant::now();
        while self.running() > 0 {
            if self.read(usize::MAX, (0, 1), document)? {
                last = Instant::now();
            } else {
                let running = self.running();
                ensure!(last.elapsed() < STALL, "{running} downloads hang");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Of every `step`th from `first` on; true if anything came.
    fn read(&mut self, most: usize, (first, step): (usize, usize), document: &[u8]) -> Result<bool> {
        let Self { all, buffer, .. } = self;
        let room = buffer.len().min(most);
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let mut some = false;
        for (place, download) in all.iter_mut().enumerate().skip(first).step_by(step) {
            if download.received < document.len() {
                some |= download.read(buffer, document).with_context(|| format!("download {place}"))?;
            }
        }
        Ok(some)
    }
}

impl Download {
    fn start(to: SocketAddrV4, request: &[u8]) -> Result<Self> {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
        connect(&socket, &to).with_context(|| format!("connecting to {to}"))?;
        let sent = send(&socket, request, SendFlags::NOSIGNAL).context("sending")?;
        ensure!(sent == request.len(), "the socket took {sent} bytes of a request");
        Ok(Self { socket, head: Some(Vec::new()), received: 0 })
    }

    fn read(&mut self, buffer: &mut [u8], document: &[u8]) -> Result<bool> {
        let length = match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => bail!("closed after {} bytes", self.received),
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("after {} bytes", self.received)),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        match self.head.take() {
            Some(mut head) => {
                head.extend_from_slice(bytes);
                self.take_head(head, document)?;
            }
            None => self.take_body(bytes, document)?,
        }
        Ok(true)
    }

    fn take_head(&mut self, head: Vec<u8>, document: &[u8]) -> Result<()> {
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
            ensure!(head.len() < MAX_HEAD, "no end of the head");
            self.head = Some(head);
            return Ok(());
        };
        ensure!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
        self.take_body(head.get(end + 4..).unwrap_or_default(), document)
    }

    fn take_body(&mut self, bytes: &[u8], document: &[u8]) -> Result<()> {
        let expected = document.get(self.received..self.received + bytes.len());
        ensure!(expected == Some(bytes), "wrong bytes after {}", self.received);
        self.received += bytes.len();
        Ok(())
    }
}
