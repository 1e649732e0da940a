//! Hosts with an independent TCP stack (smoltcp), on virtual time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::addresses::router;
use crate::echoes::Echoes;
use crate::wire::Wire;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Time};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

/// Hosts at most: the client and the backends.
pub const HOSTS: usize = 4;

/// Without progress for so long, a closing socket is stuck.
const STALL: Duration = Duration::from_secs(2);
/// Then its peer is gone.
const KICKS: u32 = 100;

/// Nobody sends more in a run, bytes.
const NEAR: i32 = 1 << 24;

thread_local! {
    static MILLIS: Cell<u64> = const { Cell::new(0) };
    static OFFSETS: Cell<[u32; HOSTS]> = const { Cell::new([0; HOSTS]) };
}

fn clock(host: usize) -> u32 {
    (MILLIS.get() as u32).wrapping_add(OFFSETS.get()[host])
}

/// smoltcp takes a plain function: one for each host.
const CLOCKS: [fn() -> u32; HOSTS] = [|| clock(0), || clock(1), || clock(2), || clock(3)];

/// Where each host's timestamp clock begins.
pub fn set_clocks(offsets: [u32; HOSTS]) {
    OFFSETS.set(offsets);
}

fn instant(now: Time) -> Instant {
    Instant::from_micros((now.as_nanos() / 1000) as i64)
}

pub struct Host {
    pub number: usize,
    interface: Interface,
    pub sockets: SocketSet<'static>,
    pub(crate) wire: Wire,
    timestamps: bool,
    /// By peer: the highest acknowledgement received.
    acked: BTreeMap<(SocketAddr, SocketAddr), Seq>,
    /// By peer: one after the highest byte sent.
    pub(crate) sent: BTreeMap<(SocketAddr, SocketAddr), Seq>,
    /// By peer: this host's own last SYN.
    initials: BTreeMap<(SocketAddr, SocketAddr), Seq>,
    /// By peer: the last SYN.
    syns: BTreeMap<SocketAddr, Seq>,
    echoes: Echoes,
    /// By peer: the right edge of the window that this host gave, and its scale.
    pub(crate) edges: BTreeMap<(SocketAddr, SocketAddr), (Seq, u8)>,
    /// By peer: what this host expects next.
    pub(crate) peer_next: BTreeMap<(SocketAddr, SocketAddr), Seq>,
    /// By peer: this host's own last SYN that has been answered, whether the stack has looked at the answer or not.
    answered: BTreeMap<(SocketAddr, SocketAddr), Seq>,
    /// By peer: its last timestamp.
    recent: BTreeMap<(SocketAddr, SocketAddr), u32>,
    /// By peer: the window that came last, as it stands in the segment.
    windows: BTreeMap<(SocketAddr, SocketAddr), u16>,
    /// A socket whose peer's window is closed is left to its own probes.
    pub spares_closed_windows: bool,
    /// By peer: the acknowledgement that is not progressing, and since when.
    stalls: BTreeMap<(SocketAddr, SocketAddr), (Seq, Time, u32)>,
}

impl Host {
    pub fn new(number: usize, address: IpAddr, seed: u64, timestamps: bool, mtu: usize) -> Self {
        let mut wire = Wire::new(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(address.into(), if address.is_ipv4() { 24 } else { 112 })).unwrap();
        });
        match router() {
            IpAddr::V4(router) => interface.routes_mut().add_default_ipv4_route(router).unwrap(),
            IpAddr::V6(router) => interface.routes_mut().add_default_ipv6_route(router).unwrap(),
        };
        Self {
            number,
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            timestamps,
            acked: BTreeMap::new(),
            sent: BTreeMap::new(),
            initials: BTreeMap::new(),
            syns: BTreeMap::new(),
            echoes: Echoes::default(),
            edges: BTreeMap::new(),
            peer_next: BTreeMap::new(),
            answered: BTreeMap::new(),
            recent: BTreeMap::new(),
            windows: BTreeMap::new(),
            spares_closed_windows: false,
            stalls: BTreeMap::new(),
        }
    }

    pub fn add_socket(&mut self, receive: usize, send: usize) -> SocketHandle {
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
        if self.timestamps {
            socket.set_tsval_generator(Some(CLOCKS[self.number]));
        }
        // smoltcp 0.12 does not probe a closed window: a keep-alive does. See `probe`.
        socket.set_keep_alive(Some(smoltcp::time::Duration::from_millis(1500)));
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(400)));
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn connect(&mut self, handle: SocketHandle, to: SocketAddr, port: u16) {
        let context = self.interface.context();
        self.sockets.get_mut::<tcp::Socket>(handle).connect(context, to, port).unwrap();
    }

    /// The number of the last SYN to `remote`.
    pub fn initial(&self, local: SocketAddr, remote: SocketAddr) -> Option<Seq> {
        self.initials.get(&(local, remote)).copied()
    }

    /// The next byte of a connection, and the next one expected.
    pub fn numbers(&self, local: SocketAddr, remote: SocketAddr) -> Option<(Seq, Seq)> {
        let key = (local, remote);
        Some((*self.sent.get(&key)?, *self.peer_next.get(&key)?))
    }

    /// smoltcp takes data with an acknowledgement of what it sent long ago, or never; other stacks do not (RFC 5961 §5). One that is
    /// half open answers it with a reset, as all do.
    fn is_blind(&self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        let flags = segment.flags();
        let key = (segment.destination(), segment.source());
        if !flags.ack() || flags.syn() || flags.rst() || !segment.checksums_valid() {
            return false;
        }
        let Some(sent) = self.sent.get(&key) else { return false };
        // What ends the handshake may have come at the same moment, and not have been looked at yet.
        if self.is_half_open(key.1) && self.acked.get(&key) != Some(sent) {
            return false;
        }
        sent.before(segment.ack()) || sent.since(segment.ack()) > 1 << 24
    }

    pub fn receive(&mut self, packet: Vec<u8>) {
        if self.is_blind(&packet)
            || self.is_wrong_echo(&packet)
            || self.is_older_than_before(&packet)
            || self.challenge_syn(&packet)
            || self.is_duplicate_syn(&packet)
            || self.is_inexact_reset(&packet)
            || self.is_long_fin(&packet)
            || self.is_behind_fin(&packet)
            || self.is_beyond_window(&packet)
        {
            return;
        }
        let packet = self.for_its_socket(self.within_window(packet));
        if let Ok(segment) = TcpSegment::parse(&packet)
            && segment.checksums_valid()
            && segment.flags().ack()
            && self.may_acknowledge(&segment)
        {
            self.windows.insert((segment.destination(), segment.source()), segment.window());
            let acked = self.acked.entry((segment.destination(), segment.source())).or_insert(segment.ack());
            *acked = if segment.flags().syn() { segment.ack() } else { acked.max(segment.ack()) };
        }
        self.wire.incoming.push_back(packet);
    }

    /// Not what was never sent: one that is half open answers that, and learns nothing from it.
    fn may_acknowledge(&self, segment: &TcpSegment<'_>) -> bool {
        let sent = self.sent.get(&(segment.destination(), segment.source()));
        sent.is_none_or(|sent| (0..=NEAR).contains(&sent.since(segment.ack())))
    }

    /// smoltcp does not protect itself against wrapped sequence numbers; other stacks drop a segment whose timestamp goes
    /// back (RFC 7323 §5.3).
    fn is_older_than_before(&mut self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        let key = (segment.destination(), segment.source());
        if !segment.checksums_valid() || segment.flags().rst() {
            return false;
        }
        let Some((value, _)) = segment.timestamps() else { return false };
        if segment.flags().syn() {
            if !self.is_strange(&segment) {
                self.recent.insert(key, value);
                self.answered.insert(key, segment.ack() - 1);
            }
            return false;
        }
        let is_strange = self.is_strange(&segment);
        // As Linux does: a first value of 0 means nothing, and timestamps that were not agreed on do not count.
        let Some(recent) = self.recent.get_mut(&key).filter(|_| self.timestamps) else { return false };
        if *recent != 0 && (value.wrapping_sub(*recent) as i32) < 0 {
            return true;
        }
        // smoltcp drops what acknowledges less than came before, data and all.
        let is_dropped = self.acked.get(&key).is_some_and(|acked| segment.ack().before(*acked));
        if !is_dropped
            && !is_strange
            && self.peer_next.get(&key).is_some_and(|next| segment.seq().before_or_at(*next))
        {
            *recent = value;
        }
        false
    }

    /// Nobody takes a clock from the answer to a SYN that somebody else sent, or from what follows that, nor from a repeated answer to its
    /// own, nor from what lies outside its window: none of them is accepted (RFC 9293 §3.10.7.4, RFC 7323 §4.3).
    pub fn is_strange(&self, segment: &TcpSegment<'_>) -> bool {
        let key = (segment.destination(), segment.source());
        let Some(isn) = self.initials.get(&key).filter(|_| segment.flags().ack()) else { return false };
        let acknowledged = segment.ack().since(*isn);
        if segment.flags().syn() {
            return acknowledged != 1 || self.is_open(key) || self.answered.get(&key) == Some(isn);
        }
        let end = segment.seq() + segment.sequence_length();
        let is_outside = self.peer_next.get(&key).is_some_and(|next| {
            let is_beyond = |(edge, _): &(Seq, u8)| edge.before(segment.seq());
            end.before(*next) || self.edges.get(&key).is_some_and(is_beyond)
        });
        !(0..NEAR).contains(&acknowledged) || is_outside
    }

    /// smoltcp gives it to another listening socket, which answers with another initial sequence number.
    fn is_duplicate_syn(&mut self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        if !segment.flags().syn() || segment.flags().ack() || !segment.checksums_valid() {
            return false;
        }
        let taken = self.sockets.iter().any(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let remote = socket.remote_endpoint().map(|end| SocketAddr::from((end.addr, end.port)));
            socket.is_open() && remote == Some(segment.source())
        });
        self.syns.insert(segment.source(), segment.seq()) == Some(segment.seq()) && taken
    }

    /// The peer's SYN has been answered, and no more.
    fn is_half_open(&self, peer: SocketAddr) -> bool {
        self.sockets.iter().any(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let remote = socket.remote_endpoint().map(|end| SocketAddr::from((end.addr, end.port)));
            socket.state() == State::SynReceived && remote == Some(peer)
        })
    }

    /// smoltcp does not look at it.
    fn is_wrong_echo(&self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        self.is_half_open(segment.source()) && self.echoes.is_wrong(&segment)
    }

    /// smoltcp takes a FIN even if it had no room for the data before it.
    fn is_long_fin(&self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        let end = segment.seq() + segment.payload().len() as u32;
        let edge = self.edges.get(&(segment.destination(), segment.source()));
        segment.flags().fin() && edge.is_some_and(|(edge, _)| edge.before(end))
    }

    /// smoltcp takes data behind the FIN that it has taken; other stacks do not (RFC 9293 §3.10.7.4).
    fn is_behind_fin(&self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        let key = (segment.destination(), segment.source());
        let end = segment.seq() + segment.payload().len() as u32;
        let behind = self.peer_next.get(&key).is_some_and(|next| next.before(end));
        behind && !segment.payload().is_empty() && self.has_socket(key, is_closed_by_peer)
    }

    /// It has had the other end's SYN.
    fn is_open(&self, key: (SocketAddr, SocketAddr)) -> bool {
        self.has_socket(key, |state| state != State::SynSent)
    }

    fn has_socket(&self, (host, peer): (SocketAddr, SocketAddr), wanted: impl Fn(State) -> bool) -> bool {
        self.sockets.iter().any(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let remote = socket.remote_endpoint().map(|end| SocketAddr::from((end.addr, end.port)));
            let local = socket.local_endpoint().map(|end| SocketAddr::from((end.addr, end.port)));
            wanted(socket.state()) && (local, remote) == (Some(host), Some(peer))
        })
    }

    /// smoltcp gives a reset without an acknowledgement to a listening socket, if there is one before, and that swallows it.
    fn for_its_socket(&self, packet: Vec<u8>) -> Vec<u8> {
        let Ok(segment) = TcpSegment::parse(&packet) else { return packet };
        let bare = segment.flags().rst() && !segment.flags().ack() && segment.checksums_valid();
        let key = (segment.destination(), segment.source());
        if !bare || !self.is_open(key) {
            return packet;
        }
        let ack = self.sent.get(&key).copied().or(Some(Seq(0)));
        SegmentBuilder { seq: segment.seq(), ack, flags: Flags::RST, ..SegmentBuilder::new(key.1, key.0) }
            .build()
    }

    /// smoltcp believes any reset inside the window; other stacks challenge it unless it is exact (RFC 5961 §3.2).
    fn is_inexact_reset(&mut self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        if !segment.flags().rst() || !segment.checksums_valid() {
            return false;
        }
        let key = (segment.destination(), segment.source());
        let open = self.is_open(key);
        let expected = self.syns.get(&key.1).map(|isn| *isn + 1);
        let next = self.peer_next.get(&key).copied().or(expected);
        let exact = next.is_none_or(|next| next == segment.seq());
        if open && !exact {
            let bare = SegmentBuilder { ack: next, ..SegmentBuilder::new(key.0, key.1) };
            let seq = self.sent.get(&key).copied().unwrap_or_default();
            self.wire.outgoing.push(SegmentBuilder { seq, window: 1000, ..bare }.build());
        }
        open && !exact
    }

    /// smoltcp gives a SYN to a listening socket though another one still has its peer, which other stacks make challenge it (RFC 5961
    /// §4.2). True if it did.
    fn challenge_syn(&mut self, packet: &[u8]) -> bool {
        let Ok(segment) = TcpSegment::parse(packet) else { return false };
        let key = (segment.destination(), segment.source());
        if !segment.flags().syn() || segment.flags().ack() || !segment.checksums_valid() {
            return false;
        }
        let established = self.sockets.iter().any(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let remote = socket.remote_endpoint().map(|end| SocketAddr::from((end.addr, end.port)));
            let opening = matches!(socket.state(), State::SynSent | State::SynReceived | State::TimeWait);
            socket.is_open() && !opening && remote == Some(key.1)
        });
        let (Some(seq), Some(next)) = (self.sent.get(&key), self.peer_next.get(&key)) else { return false };
        if established {
            let bare = SegmentBuilder { seq: *seq, ack: Some(*next), ..SegmentBuilder::new(key.0, key.1) };
            self.wire.outgoing.push(SegmentBuilder { window: 1000, ..bare }.build());
        }
        established
    }

    /// Lets the stack work, and gives what it sends.
    pub fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        MILLIS.set(now.as_millis());
        self.interface.poll(instant(now), &mut self.wire, &mut self.sockets);
        let mut packets = std::mem::take(&mut self.wire.outgoing);
        // IPv6 hosts also say that they listen to multicast.
        packets.retain(|packet| TcpSegment::parse(packet).is_ok());
        packets.into_iter().map(|packet| self.probe(packet)).collect()
    }

    /// A keep-alive carries a zero byte just before the next byte to send, even where the peer still lacks the true one:
    /// send none, just before the first byte not acknowledged, as a keep-alive should (RFC 9293 §3.8.4).
    fn probe(&mut self, packet: Vec<u8>) -> Vec<u8> {
        let segment = TcpSegment::parse(&packet).unwrap();
        let key = (segment.source(), segment.destination());
        if segment.flags().rst() {
            // Its numbers may be those of a segment of no connection.
            return packet;
        }
        // smoltcp leaves timestamps out of challenges, and answers what it does not take with the timestamp of that (RFC 7323 §3.2, §4.3).
        let bare = !segment.flags().syn() && segment.payload().is_empty();
        let echo = segment.timestamps().map(|(_, echo)| echo);
        if let Some(recent) = self.recent.get(&key).filter(|recent| bare && echo != Some(**recent))
            && self.timestamps
        {
            let timestamps = Some((CLOCKS[self.number](), *recent));
            let complete = SegmentBuilder {
                seq: segment.seq(),
                ack: Some(segment.ack()).filter(|_| segment.flags().ack()),
                flags: segment.flags(),
                window: segment.window(),
                timestamps,
                ..SegmentBuilder::new(key.0, key.1)
            };
            return self.probe(complete.build());
        }
        self.echoes.note(key, &segment);
        if segment.flags().ack() {
            self.peer_next.insert(key, segment.ack());
            let scale =
                if segment.flags().syn() { 0 } else { self.edges.get(&key).map_or(0, |(_, scale)| *scale) };
            let edge = segment.ack() + (u32::from(segment.window()) << scale);
            let own =
                if segment.flags().syn() { segment.syn_options().window_scale.unwrap_or(0) } else { scale };
            self.edges.insert(key, (edge, own));
        }
        let end = segment.seq() + segment.sequence_length();
        let sent = self.sent.entry(key).or_insert(end);
        *sent = if segment.flags().syn() { end } else { sent.max(end) };
        if segment.flags().syn() {
            self.initials.insert(key, segment.seq());
            if !segment.flags().ack() {
                self.edges.insert(key, (Seq(0), segment.syn_options().window_scale.unwrap_or(0)));
            }
            self.acked.remove(&key);
        }
        let Some(acked) = self.acked.get(&key).filter(|_| segment.payload() == [0]) else { return packet };
        SegmentBuilder {
            seq: *acked - 1,
            ack: Some(segment.ack()),
            window: segment.window(),
            timestamps: segment.timestamps(),
            ..SegmentBuilder::new(segment.source(), segment.destination())
        }
        .build()
    }

    /// smoltcp 0.12 forgets its retransmission timer at any acknowledgement that comes after a FIN, and at one that arrives
    /// between going back and repeating. Three duplicates, made
    /// up here, set it going again. Gives the time to look again.
    pub fn unstick(&mut self, now: Time) -> Option<Time> {
        let mut next = None;
        let mut kicks = Vec::new();
        for (_, socket) in self.sockets.iter() {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint()) else {
                continue;
            };
            let closing = matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing);
            let waits = socket.send_queue() > 0 || (closing && socket.state() != State::CloseWait);
            let key =
                (SocketAddr::from((local.addr, local.port)), SocketAddr::from((remote.addr, remote.port)));
            let (Some(acked), true) = (self.acked.get(&key), waits) else { continue };
            let stall = self.stalls.entry(key).or_insert((*acked, now, 0));
            if stall.0 != *acked {
                *stall = (*acked, now, 0);
            } else if stall.2 >= KICKS {
                continue;
            } else if now.since(stall.1) >= STALL {
                *stall = (*acked, now, stall.2 + 1);
                kicks.push(key);
            }
            next = next.into_iter().chain([stall.1 + STALL]).min();
        }
        for key in kicks {
            if !self.spares_closed_windows || self.windows.get(&key) != Some(&0) {
                self.kick(key);
            }
        }
        next
    }

    fn kick(&mut self, key: (SocketAddr, SocketAddr)) {
        let Some(seq) = self.peer_next.get(&key) else { return };
        let ack = self.acked.get(&key).copied();
        let bare = SegmentBuilder { seq: *seq, ack, ..SegmentBuilder::new(key.1, key.0) };
        // The first is a window update and resets smoltcp's count; it gets no window that the peer did not give, however that is scaled.
        let most = if self.windows.get(&key) == Some(&1) { 1 } else { 2 };
        for window in [most - 1, most, most, most, most] {
            self.wire.incoming.push_back(SegmentBuilder { window, ..bare.clone() }.build());
        }
    }

    pub fn poll_at(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time::from_nanos(at.total_micros().max(0) as u64 * 1000))
    }
}

fn is_closed_by_peer(state: State) -> bool {
    matches!(state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait)
}
