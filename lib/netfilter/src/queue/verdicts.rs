//! Verdicts, collected and sent together.

use std::sync::Arc;

use crate::Error;
use crate::netlink::{self, Builder, Head};
use crate::socket::Socket;

const MESSAGE_VERDICT: u16 = (3 << 8) | 1;
const MESSAGE_VERDICT_BATCH: u16 = (3 << 8) | 3;
const VERDICT_HEADER: u16 = 2;
const PAYLOAD: u16 = 10;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// Pending bytes from which a push sends by itself: a copy of 64 KiB costs far more than a syscall, and memory that many large
/// packets have once needed stays.
const FLUSH_FROM: usize = 64 << 10;
/// The kernel takes one `sendto` up to this size (it doubles the value); more than [`FLUSH_FROM`] and one packet.
pub(super) const SEND_BUFFER: usize = 256 << 10;

/// What shall become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It goes on as it is.
    Accept,
    /// It is gone.
    Drop,
    /// It goes on with these bytes (a whole IP packet, all checksums correct), at most 65,531.
    AcceptWith(&'a [u8]),
}

/// Verdicts not yet sent.
pub struct Verdicts {
    socket: Arc<Socket>,
    queue: u16,
    pending: Builder,
}

impl Verdicts {
    pub(super) fn new(socket: Arc<Socket>, queue: u16) -> Self {
        Self { socket, queue, pending: Builder::default() }
    }

    /// Appends a verdict, in any order of ids; sends by itself only when very much is pending. After an error the
    /// packet still waits for its verdict.
    pub fn push(&mut self, id: u32, verdict: Verdict<'_>) -> Result<(), Error> {
        let (code, payload) = match verdict {
            Verdict::Accept => (NF_ACCEPT, None),
            Verdict::Drop => (NF_DROP, None),
            Verdict::AcceptWith(payload) => (NF_ACCEPT, Some(payload)),
        };
        if payload.is_some_and(|payload| payload.len() > netlink::MAX_VALUE) {
            return Err(Error::NotSendable("verdict"));
        }
        if self.pending.bytes().len() >= FLUSH_FROM {
            self.flush()?;
        }
        self.append(MESSAGE_VERDICT, id, code, payload);
        Ok(())
    }

    /// Accepts, with one message, all packets that wait and whose id is `id` or before it.
    pub fn accept_through(&mut self, id: u32) -> Result<(), Error> {
        if self.pending.bytes().len() >= FLUSH_FROM {
            self.flush()?;
        }
        self.append(MESSAGE_VERDICT_BATCH, id, NF_ACCEPT, None);
        Ok(())
    }

    fn append(&mut self, kind: u16, id: u32, code: u32, payload: Option<&[u8]>) {
        let [a, b, c, d] = code.to_be_bytes();
        let [e, f, g, h] = id.to_be_bytes();
        let head =
            Head { kind, flags: libc::NLM_F_REQUEST as u16, sequence: 0, family: 0, resource: self.queue };
        self.pending.message(head, |message| {
            message.attribute(VERDICT_HEADER, &[a, b, c, d, e, f, g, h]);
            if let Some(payload) = payload {
                message.attribute(PAYLOAD, payload);
            }
        });
    }

    /// Sends what is pending in one syscall. After an error it is still pending: call again.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.pending.bytes().is_empty() {
            return Ok(());
        }
        self.socket.send(self.pending.bytes()).map_err(|error| Error::system("send verdicts", error))?;
        self.pending.clear();
        Ok(())
    }
}
