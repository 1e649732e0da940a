//! The program, run on a frame that nobody sends: how it is compared with what is expected of it.
#![allow(unsafe_code, reason = "bpf(2)")]

use std::os::fd::AsFd;

use super::FastPath;
use super::syscalls::{Attributes, raw};
use crate::Error;

const PROGRAM_TEST_RUN: i64 = 10;
/// `struct __sk_buff`, and in it the interface and the length of the segments in one packet.
const CONTEXT: usize = 192;
const INTERFACE: usize = 40;
const SEGMENT: usize = 176;
const DROPPED: u32 = 2;
const REDIRECTED: u32 = 7;
const NEXT: u32 = u32::MAX;

/// An Ethernet frame that comes in.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// With its Ethernet header, at most 3,000.
    pub bytes: &'a [u8],
    /// The number of the interface.
    pub interface: u32,
    /// How many bytes of data each of its segments has, if it holds several; 0: it is one.
    pub segment: u32,
}

/// What the program did with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It left it alone.
    Passed,
    /// It sent this instead.
    Sent(Vec<u8>),
    /// It took it.
    Dropped,
}

impl FastPath {
    /// What the program does with this frame. To be called in the interface's network
    /// namespace; the map changes as if the frame had come.
    pub fn try_out(&self, frame: &Frame<'_>) -> Result<Tried, Error> {
        let mut context = [0_u8; CONTEXT];
        context[INTERFACE..][..4].copy_from_slice(&frame.interface.to_ne_bytes());
        context[SEGMENT..][..4].copy_from_slice(&frame.segment.to_ne_bytes());
        let mut sent = vec![0_u8; frame.bytes.len() + 256];
        let attributes = Attributes::new().word(0, raw(self.program.as_fd()));
        let attributes = attributes.word(8, frame.bytes.len() as u32).word(12, sent.len() as u32);
        let attributes = attributes.pointer(16, frame.bytes.as_ptr()).pointer(24, sent.as_mut_ptr());
        let mut attributes = attributes.word(40, CONTEXT as u32).pointer(48, context.as_ptr());
        // SAFETY: frame and context are alive and as long as said; so is what is sent, which is not used otherwise meanwhile.
        let run = unsafe { attributes.call(PROGRAM_TEST_RUN) };
        run.map_err(|error| Error::system("try the BPF program", error))?;
        sent.truncate(attributes.word_at(12) as usize);
        match attributes.word_at(4) {
            REDIRECTED => Ok(Tried::Sent(sent)),
            NEXT => Ok(Tried::Passed),
            DROPPED => Ok(Tried::Dropped),
            _ => Err(Error::Answer("try the BPF program")),
        }
    }
}
