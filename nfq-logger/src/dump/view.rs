//! A logged segment with everything that can be asked about it.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use cluster::control::Flow;
use packet::TcpSegment;
use segment_log::{Flags, Record};

/// One record, taken apart.
#[derive(Debug)]
pub struct View<'a> {
    /// The record.
    pub record: Record<'a>,
    /// Its packet.
    pub segment: TcpSegment<'a>,
    /// When it was logged: nanoseconds since 1970.
    pub unix_ns: u64,
    /// Ordinals of the transactions that its bytes belong to; `None`: it has no bytes, or they are not known.
    pub transactions: Option<RangeInclusive<u64>>,
}

impl<'a> View<'a> {
    /// `None`: the record holds no TCP packet. `base` is when the monotonic clock was 0, nanoseconds since 1970.
    pub fn new(record: Record<'a>, base: u64) -> Option<Self> {
        let parse = if record.left_out().is_some() { TcpSegment::parse_headers } else { TcpSegment::parse };
        let segment = parse(record.payload()).ok()?;
        let unix_ns = base.wrapping_add(record.time_ns());
        Some(Self { record, segment, unix_ns, transactions: None })
    }

    /// Bytes of the segment's data, whether they were logged or left out.
    pub fn length(&self) -> usize {
        self.segment.payload().len() + self.left_out()
    }

    /// Bytes of its data that were left out of the log.
    pub fn left_out(&self) -> usize {
        self.record.left_out().map_or(0, |left_out| left_out.bytes as usize)
    }

    /// It comes from a backend; otherwise from a client.
    pub fn from_backend(&self) -> bool {
        self.record.flags().contains(Flags::FROM_BACKEND)
    }

    /// No backend has got it.
    pub fn is_swallowed(&self) -> bool {
        self.record.flags().contains(Flags::SWALLOWED)
    }

    /// It is no segment, but the beginning of a fence.
    pub fn is_fence(&self) -> bool {
        self.record.flags().contains(Flags::FENCED)
    }

    /// It is not of the connection between client and backend.
    pub fn is_apart(&self) -> bool {
        self.is_swallowed() || self.is_fence()
    }

    /// Whose connection it belongs to.
    pub fn flow(&self) -> Flow {
        let (source, destination) = (self.segment.source(), self.segment.destination());
        if self.from_backend() {
            Flow { client: destination, backend: source }
        } else {
            Flow { client: source, backend: destination }
        }
    }

    /// The client.
    pub fn client(&self) -> SocketAddr {
        self.flow().client
    }
}
