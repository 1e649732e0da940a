//! The two sides of a connection as the proxy speaks on them itself: with the right addresses and timestamps.

use std::net::SocketAddr;

use cluster::control::ClientWindow;
use packet::{Flags, SegmentBuilder, Seq, SynOptions, TcpSegment, Time};

use crate::cookie::LIFETIME;
use crate::ecn::Ecn;
use crate::secret::LEAD_MILLIS;

/// Bytes of a segment's options when timestamps are in use.
const TIMESTAMP_BYTES: usize = 12;
/// Data bytes of a segment on the smallest link (RFC 791): however small an MSS a peer announces, no less.
const MIN_PAYLOAD: usize = 68 - 20 - 20 - TIMESTAMP_BYTES;
/// MSS of a peer that announces none (RFC 9293 MUST-15), IPv4 and IPv6.
const DEFAULT_MSS: (u16, u16) = (536, 1220);

/// Client's receive window assumed where none was seen, segments: one fits, however the window's field is rounded.
const ASSUMED_SEGMENTS: u32 = 2;
/// The largest window that TCP knows, bytes (RFC 7323 §2.3).
pub(crate) const MAX_WINDOW: u32 = 1 << 30;

/// No segment is longer under way between two hosts of the cluster, milliseconds.
const UNDER_WAY_MILLIS: u32 = 2000;
/// More than the one-way delay of a SYN-ACK and the drift of two clocks in a connection's life, milliseconds.
const UNSEEN_MILLIS: u32 = 2000;

/// An answer to a SYN is no older, milliseconds: no cookie lives longer, and a daemon's clock is ahead of that of the one before. What seems to
/// be older is no echo.
const OLDEST_ANSWER_MILLIS: u32 = LIFETIME.as_millis() as u32 + LEAD_MILLIS;

fn default_mss(address: SocketAddr) -> u16 {
    if address.is_ipv4() { DEFAULT_MSS.0 } else { DEFAULT_MSS.1 }
}

/// Data bytes that fit a segment to a peer that offered `options`, `announced` being our own limit.
pub(crate) fn payload_bytes(options: &SynOptions, address: SocketAddr, announced: u16) -> usize {
    let mss = usize::from(options.mss.unwrap_or(default_mss(address)).min(announced));
    mss.saturating_sub(if options.timestamp.is_some() { TIMESTAMP_BYTES } else { 0 }).max(MIN_PAYLOAD)
}

/// Towards the client, speaking as the service.
#[derive(Debug, Clone)]
pub(crate) struct ClientLeg {
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
    /// What the client offered.
    pub(crate) options: SynOptions,
    /// The window scale the client was told, 0 if none was negotiated.
    pub(crate) announced_scale: u8,
    /// The MSS that the client was told; at most this, where that is not known.
    pub(crate) announced_mss: u16,
    /// Added to the millisecond clock to give TSval.
    pub(crate) clock_offset: u32,
    /// TSval never goes below this (RFC 7323 §5: PAWS would drop it).
    pub(crate) clock_floor: u32,
    /// It puts options where the kernel would translate them wrongly.
    pub(crate) odd_places: bool,
    /// What it was told of ECN.
    pub(crate) ecn: Ecn,
    /// The client's last TSval.
    pub(crate) ts_recent: u32,
    /// The client's highest acknowledgement seen here.
    pub(crate) acked: Seq,
    /// The client's receive window, bytes from `acked`; `None`: not seen here yet.
    pub(crate) window: Option<u32>,
    /// The largest of them, bytes.
    pub(crate) max_window: u32,
}

impl ClientLeg {
    /// The scale by which the client's window fields are to be shifted.
    pub(crate) fn client_scale(&self) -> u8 {
        self.options.window_scale.unwrap_or(0)
    }

    pub(crate) fn has_timestamps(&self) -> bool {
        self.options.timestamp.is_some()
    }

    /// The TSval of this moment.
    pub(crate) fn clock(&self, now: Time) -> u32 {
        let value = (now.as_millis() as u32).wrapping_add(self.clock_offset);
        if (value.wrapping_sub(self.clock_floor) as i32) < 0 { self.clock_floor } else { value }
    }

    /// The kernel has translated, unseen: the backend's clock was aligned when its SYN-ACK arrived, not when it left, and has
    /// drifted since, so the client may have seen timestamps ahead of this clock. It jumps over them.
    pub(crate) fn overtake_unseen(&mut self) {
        self.clock_offset = self.clock_offset.wrapping_add(UNSEEN_MILLIS);
    }

    /// What is to be added to `backend`'s timestamps from now on. What it has said since its SYN-ACK may still be under way, and
    /// is not older than what the client has been sent: this clock jumps by the time since.
    pub(crate) fn align(&mut self, now: Time, backend: &BackendLeg) -> u32 {
        let clock = self.clock(now);
        let opened = backend.options.timestamp.unwrap_or(backend.ts_recent);
        let since = backend.ts_recent.wrapping_sub(opened).min(UNDER_WAY_MILLIS);
        self.clock_offset = self.clock_offset.wrapping_add(since);
        self.raise_floor(clock.wrapping_add(since));
        clock.wrapping_sub(backend.ts_recent.wrapping_sub(since))
    }

    /// The same of a first backend. What the client sends echoes the last that it was told, which is then exactly the SYN-ACK's
    /// timestamp: in SYN-RECEIVED Linux (6.15 and later) drops what echoes an older one, and the client's next bytes may get there
    /// before what ends the handshake.
    /// The proxy's own clock goes on from there, too, and a tick behind: the two clocks do not tick at the same moment, and what the
    /// backend says next must not be older than what the proxy says for it (RFC 7323 §5.3).
    pub(crate) fn align_first(&mut self, now: Time, backend: &BackendLeg) -> u32 {
        let told = self.clock_floor;
        self.set_clock(now, told);
        self.clock_offset = self.clock_offset.wrapping_sub(1);
        told.wrapping_sub(backend.ts_recent)
    }

    /// The client is sent something of this moment.
    pub(crate) fn note_told(&mut self, now: Time) {
        self.raise_floor(self.clock(now));
    }

    /// The client has been told this and nothing later: the clock goes on from there.
    pub(crate) fn set_clock(&mut self, now: Time, told: u32) {
        self.clock_offset = told.wrapping_sub(now.as_millis() as u32);
        self.clock_floor = told;
    }

    /// What ends the handshake echoes which of the answers to its SYN the client has taken: those repeated later are nothing to it.
    pub(crate) fn note_answer_taken(&mut self, now: Time, echo: u32) {
        if self.clock_floor.wrapping_sub(echo) <= OLDEST_ANSWER_MILLIS {
            self.set_clock(now, echo);
        }
    }

    /// What another daemon's clock for this client has to be ahead of the millisecond clock.
    pub(crate) fn clock_kept(&self, now: Time) -> u32 {
        self.clock(now).wrapping_sub(now.as_millis() as u32)
    }

    /// Takes over from an earlier daemon, whose clock was ahead by so much.
    pub(crate) fn go_on(&mut self, now: Time, ahead: u32) {
        self.set_clock(now, (now.as_millis() as u32).wrapping_add(ahead));
    }

    /// The client has been sent this timestamp.
    pub(crate) fn raise_floor(&mut self, sent: u32) {
        if sent.wrapping_sub(self.clock_floor) as i32 > 0 {
            self.clock_floor = sent;
        }
    }

    /// The client has sent this timestamp; before the first one that is known here any is newer.
    pub(crate) fn note_timestamp(&mut self, value: u32) {
        if self.ts_recent == 0 || value.wrapping_sub(self.ts_recent) as i32 > 0 {
            self.ts_recent = value;
        }
    }

    /// Learns from a client's segment (never a SYN, whose window is not scaled).
    pub(crate) fn learn(&mut self, segment: &TcpSegment<'_>) {
        if let Some((value, echo)) = segment.timestamps() {
            self.note_timestamp(value);
            self.raise_floor(echo);
        }
        // Before the first one seen, `acked` means nothing.
        if segment.flags().ack() && (self.window.is_none() || self.acked.before_or_at(segment.ack())) {
            let window = u32::from(segment.window()) << self.client_scale();
            self.acked = segment.ack();
            self.window = Some(window);
            self.max_window = self.max_window.max(window);
        }
    }

    /// Bytes that the client takes from `point` on; `None`: not known.
    pub(crate) fn room_from(&self, point: Seq) -> Option<u32> {
        self.window.map(|window| (self.acked + window).since(point).max(0).unsigned_abs())
    }

    /// The kernel has translated, unseen: what the log knows of the client counts. `first`: its last acknowledgement. Where the log
    /// has nothing of the client, as all went into a fence, it is as it was in its handshake.
    pub(crate) fn learn_from_log(&mut self, first: Seq, window: ClientWindow) {
        let offered = (self.max_window > 0).then_some(self.max_window);
        self.acked = first;
        self.max_window = self.max_window.max(window.most.min(MAX_WINDOW));
        self.window = if window.most > 0 { Some(window.now.min(MAX_WINDOW)) } else { offered };
        self.overtake_unseen();
    }

    /// The same; where it is not known, what any client takes: what it says next tells more.
    pub(crate) fn room(&self, seq: Seq) -> u32 {
        self.room_from(seq).unwrap_or_else(|| self.assumed_window())
    }

    fn assumed_window(&self) -> u32 {
        let mss = self.options.mss.unwrap_or(default_mss(self.client));
        (ASSUMED_SEGMENTS * u32::from(mss)).max(1 << self.client_scale())
    }

    /// The log knows a later acknowledgement, `acked`, than was seen here. What the client takes ends where it did, or at the log's
    /// `edge`: no client takes back what it has offered (RFC 9293 §3.8.6).
    pub(crate) fn catch_up(&mut self, acked: Seq, edge: Seq) {
        let window = self.room(acked).max(edge.since(acked).max(0).unsigned_abs());
        self.acked = acked;
        self.window = Some(window);
        self.max_window = self.max_window.max(window);
    }

    /// A segment to the client, without data yet.
    pub(crate) fn segment(&self, now: Time, seq: Seq, ack: Seq, window: u32) -> SegmentBuilder<'static> {
        SegmentBuilder {
            seq,
            ack: Some(ack),
            window: (window >> self.announced_scale).min(0xffff) as u16,
            timestamps: self.has_timestamps().then(|| (self.clock(now), self.ts_recent)),
            ..SegmentBuilder::new(self.service, self.client)
        }
    }

    /// The same, with the last timestamp that the client was told.
    pub(crate) fn segment_as_told(
        &self,
        now: Time,
        seq: Seq,
        ack: Seq,
        window: u32,
    ) -> SegmentBuilder<'static> {
        let bare = self.segment(now, seq, ack, window);
        SegmentBuilder { timestamps: bare.timestamps.map(|(_, echo)| (self.clock_floor, echo)), ..bare }
    }

    /// Data bytes that fit a segment to the client.
    pub(crate) fn payload_bytes(&self, announced: u16) -> usize {
        payload_bytes(&self.options, self.client, announced)
    }

    /// A reset that the client believes if `seq` is what it expects next; otherwise its challenge gets the exact one.
    pub(crate) fn reset(&self, now: Time, seq: Seq, ack: Seq) -> Vec<u8> {
        SegmentBuilder { flags: Flags::RST, ..self.segment(now, seq, ack, 0) }.build()
    }
}

/// Towards a backend, speaking as the client.
#[derive(Debug, Clone)]
pub(crate) struct BackendLeg {
    pub(crate) backend: SocketAddr,
    /// Its initial sequence number.
    pub(crate) irs: Seq,
    /// What it answered.
    pub(crate) options: SynOptions,
    /// Its last TSval.
    pub(crate) ts_recent: u32,
    /// Its receive window, bytes.
    pub(crate) window: u32,
    /// The shift of its window fields.
    pub(crate) server_scale: u8,
    /// The shift it applies to the client's window fields.
    pub(crate) client_scale: u8,
    /// It has sent something since its SYN-ACK: it knows that its handshake is complete.
    pub(crate) has_spoken: bool,
}

impl BackendLeg {
    /// From its SYN-ACK.
    pub(crate) fn new(leg: &ClientLeg, segment: &TcpSegment<'_>) -> Self {
        let options = segment.syn_options();
        let scaled = options.window_scale.is_some() && leg.options.window_scale.is_some();
        Self {
            backend: segment.source(),
            irs: segment.seq(),
            options,
            ts_recent: options.timestamp.unwrap_or(0),
            window: u32::from(segment.window()),
            server_scale: if scaled { options.window_scale.unwrap_or(0) } else { 0 },
            client_scale: if scaled { leg.client_scale() } else { 0 },
            has_spoken: false,
        }
    }

    /// Learns from a segment of the backend that is no SYN.
    pub(crate) fn learn(&mut self, segment: &TcpSegment<'_>) {
        self.has_spoken = true;
        self.window = u32::from(segment.window()) << self.server_scale;
        if let Some((value, _)) =
            segment.timestamps().filter(|(value, _)| value.wrapping_sub(self.ts_recent) as i32 > 0)
        {
            self.ts_recent = value;
        }
    }

    /// A segment to the backend, without data yet; `window` in bytes.
    pub(crate) fn segment(
        &self,
        leg: &ClientLeg,
        seq: Seq,
        ack: Seq,
        window: u32,
    ) -> SegmentBuilder<'static> {
        SegmentBuilder {
            seq,
            ack: Some(ack),
            window: (window >> self.client_scale).min(0xffff) as u16,
            timestamps: self.has_timestamps(leg).then_some((leg.ts_recent, self.ts_recent)),
            ..SegmentBuilder::new(leg.client, self.backend)
        }
    }

    pub(crate) fn has_timestamps(&self, leg: &ClientLeg) -> bool {
        leg.has_timestamps() && self.options.timestamp.is_some()
    }

    /// The MSS that it announced.
    pub(crate) fn mss(&self) -> u16 {
        self.options.mss.unwrap_or(default_mss(self.backend))
    }

    /// Data bytes that fit a segment to the backend.
    pub(crate) fn payload_bytes(&self, announced: u16) -> usize {
        payload_bytes(&self.options, self.backend, announced)
    }
}

/// A SYN to `backend` in the client's name (design §3 step 3), which may ask for ECN.
pub(crate) fn syn(leg: &ClientLeg, backend: SocketAddr, isn: Seq, ecn: bool) -> Vec<u8> {
    SegmentBuilder {
        seq: isn,
        flags: if ecn { Flags::SYN.union(Flags::ECN) } else { Flags::SYN },
        window: u16::MAX,
        syn: Some(leg.options),
        timestamps: leg.has_timestamps().then_some((leg.ts_recent, 0)),
        ..SegmentBuilder::new(leg.client, backend)
    }
    .build()
}
