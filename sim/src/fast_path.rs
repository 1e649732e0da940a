//! What the fast path's program does (`lib/netfilter/src/fast_path`), written a second time, in another way, from what is promised of it
//! (`docs/network.md`). The real program must give equal bytes for any packet: `lib/netfilter/tests/fast_path.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use netfilter::conntrack::SpliceEntry;
use netfilter::fast_path::{Answered, Answers, Kept, Passed, Recorded, Rescale};

mod handshake;
mod translation;

use handshake::Done;
use translation::{HEADERS, Way, is_plain, is_whole_tcp};

const FLAGS: usize = 33;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const SYN_OR_RST: u8 = 0x06;
/// Bytes of a packet that is handed over at most.
const LONGEST: usize = 1504;
/// What has an entry is shown to conntrack so often.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// The map, and the program.
#[derive(Debug, Default, Clone)]
pub struct FastPath {
    elements: BTreeMap<SocketAddrV4, Element>,
    /// Clients of which nothing is translated or answered, and whether that is because their packets are queued.
    aside: BTreeMap<SocketAddrV4, bool>,
    answers: Option<Answers>,
    answered: Answered,
    backends: BTreeSet<SocketAddr>,
}

/// What became of a packet that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes the long way, as it came.
    Passed,
    /// It was translated and goes on to its receiver.
    Translated,
    /// It was a SYN, has become the answer to it and goes to its sender.
    Answered,
    /// It completed a handshake, and is gone.
    Taken,
    /// It goes to the owner, as one that was queued behind conntrack.
    HandedOver,
}

#[derive(Debug, Clone)]
struct Element {
    entry: SpliceEntry,
    rescale: Rescale,
    /// `None`: conntrack has an entry of it.
    recorded: Option<Recorded>,
    sides: [Side; 2],
}

/// What changes.
#[derive(Debug, Clone, Copy)]
struct Side {
    show_at: Duration,
    /// The last one of a connection that conntrack has an entry of; 0: none yet.
    ack: u32,
    passed: Option<Passed>,
    fin_end: Option<u32>,
}

impl FastPath {
    /// Of a connection that conntrack has an entry of; false if it cannot be here.
    pub fn add(&mut self, entry: &SpliceEntry) -> bool {
        self.put(entry, [(0, 0); 2], None, Duration::ZERO)
    }

    /// Of one that somebody else translates where this does not. Not anew if it is here already.
    pub fn add_recorded(&mut self, entry: &SpliceEntry, recorded: &Recorded) -> bool {
        let there = v4(entry.client).and_then(|client| self.elements.get(&client));
        let same = |there: &Element| {
            let kind = there.recorded.map(|recorded| recorded.to_its_end);
            let says = |entry: &SpliceEntry| {
                (
                    entry.service,
                    entry.backend,
                    entry.server_offset,
                    entry.client_offset,
                    entry.timestamp_offset,
                )
            };
            says(&there.entry) == says(entry)
                && there.entry.sack_permitted == entry.sack_permitted
                && kind == Some(false)
                && there.rescale == recorded.rescale
        };
        let stays = !recorded.to_its_end && entry.has_timestamps && there.is_some_and(same);
        stays || self.put(entry, recorded.rescale, Some(*recorded), recorded.show.0)
    }

    fn put(
        &mut self,
        entry: &SpliceEntry,
        rescale: Rescale,
        recorded: Option<Recorded>,
        show_at: Duration,
    ) -> bool {
        let addresses = [entry.client, entry.service, entry.backend].map(v4);
        let ([Some(client), Some(_), Some(_)], true) = (addresses, entry.has_timestamps) else {
            return false;
        };
        self.aside.remove(&client);
        let side = Side { show_at, ack: 0, passed: None, fin_end: None };
        self.elements.insert(client, Element { entry: *entry, rescale, recorded, sides: [side; 2] });
        true
    }

    pub fn has(&self, client: SocketAddr) -> bool {
        v4(client).is_some_and(|client| self.elements.contains_key(&client))
    }

    /// What was recorded of the client and of the server.
    pub fn passed(&self, client: SocketAddr) -> [Option<Passed>; 2] {
        let element = v4(client).and_then(|client| self.elements.get(&client));
        element.map_or([None; 2], |element| element.sides.map(Side::record))
    }

    /// The same; `None`: there is nothing.
    pub fn look(&self, client: SocketAddr) -> Option<[Option<Passed>; 2]> {
        let key = v4(client)?;
        let there = self.elements.contains_key(&key) || self.aside.contains_key(&key);
        there.then(|| self.passed(client))
    }

    /// The same, and it is removed.
    pub fn take(&mut self, client: SocketAddr) -> [Option<Passed>; 2] {
        let passed = self.passed(client);
        self.remove(client);
        passed
    }

    pub fn remove(&mut self, client: SocketAddr) {
        v4(client).map(|client| (self.elements.remove(&client), self.aside.remove(&client)));
    }

    /// This client's packets are queued: nothing of it is translated or answered.
    pub fn keep_off(&mut self, client: SocketAddr) -> [Option<Passed>; 2] {
        let passed = self.take(client);
        v4(client).map(|client| self.aside.insert(client, true));
        passed
    }

    /// They are no longer.
    pub fn let_begin(&mut self, client: SocketAddr) {
        if v4(client).and_then(|client| self.aside.get(&client)) == Some(&true) {
            self.remove(client);
        }
    }

    /// What was recorded of a connection that ends or is to be fenced; what belongs to no entry stays as one that is kept off.
    pub fn set_aside(&mut self, client: SocketAddr) -> [Option<Passed>; 2] {
        self.displace(client, false)
    }

    /// A connection has ended, or its entry is to be deleted: only what is queued stays kept off.
    pub fn withdraw(&mut self, client: SocketAddr) {
        self.displace(client, true);
    }

    fn displace(&mut self, client: SocketAddr, ended: bool) -> [Option<Passed>; 2] {
        let (Some(key), passed) = (v4(client), self.passed(client)) else { return [None; 2] };
        let recorded = self.elements.get(&key).and_then(|element| element.recorded);
        let queued = recorded.map(|recorded| !recorded.to_its_end).or(self.aside.get(&key).copied());
        self.remove(client);
        if let Some(queued) = queued.filter(|queued| *queued || !ended) {
            self.aside.insert(key, queued);
        }
        passed
    }

    /// From now on SYNs of clients that are not here are answered so.
    pub fn answer(&mut self, answers: &Answers) {
        self.answers = Some(*answers);
    }

    /// The same until that time, when also the owner has gone.
    pub fn answer_until(&mut self, until: Duration) {
        self.answers = self.answers.map(|answers| Answers { until, owned_until: until, ..answers });
    }

    /// How often that was done.
    pub fn answered(&self) -> Answered {
        self.answered
    }

    /// Whose SYN-ACKs go to the owner.
    pub fn know_backends(&mut self, backends: &[SocketAddr]) {
        self.backends = backends.iter().copied().collect();
    }

    /// Also those that are kept off.
    pub fn clients(&self) -> impl Iterator<Item = SocketAddr> {
        self.elements.keys().chain(self.aside.keys()).map(|client| SocketAddr::V4(*client))
    }

    /// What a daemon after this one finds of connections without entries.
    pub fn kept(&self) -> Vec<Kept> {
        let kept = |element: &Element| {
            let Recorded { rest, .. } = element.recorded?;
            let [(_, client_scale), (server_scale, _)] = element.rescale;
            let window_scales = Some((client_scale, server_scale));
            let entry =
                SpliceEntry { mark: 0, timeout_s: 0, client_offset: 0, window_scales, ..element.entry };
            Some(Kept { entry, rest, passed: element.sides.map(Side::record) })
        };
        self.elements.values().filter_map(kept).collect()
    }

    /// A packet comes in. What is not passed must have a way: `goes` is told where to, and of how many bytes it is.
    pub fn receive(
        &mut self,
        now: Duration,
        packet: &mut [u8],
        goes: impl FnOnce(Ipv4Addr, usize) -> bool,
    ) -> Fate {
        if packet.len() < 40 || !is_whole_tcp(packet) {
            return Fate::Passed;
        }
        let (source, destination) = (address(packet, 12, 20), address(packet, 16, 22));
        let known = |client| self.elements.contains_key(client) || self.aside.contains_key(client);
        if !known(&source) && !known(&destination) {
            return self.conduct(now, packet, goes);
        }
        if packet[FLAGS] == SYN && self.has_ended(source, destination) {
            let fate = self.conduct(now, packet, goes);
            if fate == Fate::Answered {
                self.elements.remove(&source);
            }
            return fate;
        }
        self.translate(now, packet, goes)
    }

    /// The connection of this client is here to its end, which has come.
    fn has_ended(&self, client: SocketAddrV4, service: SocketAddrV4) -> bool {
        self.elements.get(&client).is_some_and(|element| {
            let to_its_end = element.recorded.is_some_and(|recorded| recorded.to_its_end);
            let passed = element.sides.map(Side::record);
            to_its_end
                && element.entry.service == service.into()
                && Kept { entry: element.entry, rest: 0, passed }.has_ended()
        })
    }

    /// Handshakes of clients that are not here, or not any more.
    fn conduct(
        &mut self,
        now: Duration,
        packet: &mut [u8],
        goes: impl FnOnce(Ipv4Addr, usize) -> bool,
    ) -> Fate {
        let Some(answers) = &self.answers else { return Fate::Passed };
        if handshake::is_backends_answer(answers, now, packet, &self.backends) {
            let (to, length) = (address(packet, 16, 22), usize::from(half(packet, 2)));
            return if goes(*to.ip(), length) { self.hand_over(packet) } else { Fate::Passed };
        }
        let before = packet.to_vec();
        match handshake::conduct(answers, now, packet) {
            None => return Fate::Passed,
            Some(Done::Spoken) => return self.hand_over(packet),
            Some(Done::Acknowledged) => {
                self.answered.acks += 1;
                return Fate::Taken;
            }
            Some(Done::Answered) => self.answered.syns += 1,
        }
        let client = address(packet, 16, 22);
        if goes(*client.ip(), usize::from(half(packet, 2))) {
            return Fate::Answered;
        }
        packet.copy_from_slice(&before);
        Fate::Passed
    }

    /// If it fits into a place of a ring.
    fn hand_over(&mut self, packet: &[u8]) -> Fate {
        let length = usize::from(half(packet, 2));
        if !(40..=LONGEST).contains(&length) || length > packet.len() {
            return Fate::Passed;
        }
        self.answered.handed_over += 1;
        Fate::HandedOver
    }

    fn translate(
        &mut self,
        now: Duration,
        packet: &mut [u8],
        goes: impl FnOnce(Ipv4Addr, usize) -> bool,
    ) -> Fate {
        let Some((client, from_server)) = self.find(packet) else { return Fate::Passed };
        let alone = self.answers.is_none_or(|answers| now >= answers.owned_until);
        let Some(element) = self.elements.get_mut(&client) else { return Fate::Passed };
        if element.ends_it(packet[FLAGS]) {
            let known = element.is_exact_reset(packet, from_server);
            // Conntrack's, until it has forgotten it.
            if element.recorded.is_none() {
                self.elements.remove(&client);
                self.aside.insert(client, false);
            }
            return if known && !alone { self.hand_over(packet) } else { Fate::Passed };
        }
        if !is_plain(packet) || element.shows((now, alone), packet, from_server) {
            return Fate::Passed;
        }
        if element.recorded.is_some() {
            element.sides[usize::from(from_server)].note(packet, from_server);
        }
        let way = element.way(from_server);
        let to = if from_server { client } else { way.new };
        if !goes(*to.ip(), usize::from(half(packet, 2))) {
            return Fate::Passed;
        }
        way.translate(packet);
        Fate::Translated
    }

    /// Whose it is, and whether it comes from the server; the other address must be that connection's.
    fn find(&self, packet: &[u8]) -> Option<(SocketAddrV4, bool)> {
        let (source, destination) = (address(packet, 12, 20), address(packet, 16, 22));
        let is_client = self.elements.contains_key(&source) || self.aside.contains_key(&source);
        let (client, from_server) = if is_client { (source, false) } else { (destination, true) };
        let entry = &self.elements.get(&client)?.entry;
        let (peer, expected) =
            if from_server { (source, entry.backend) } else { (destination, entry.service) };
        (SocketAddr::V4(peer) == expected).then_some((client, from_server))
    }
}

impl Element {
    fn ends_it(&self, flags: u8) -> bool {
        let takes_fin = self.recorded.is_some_and(|recorded| recorded.to_its_end);
        flags & SYN_OR_RST != 0 || flags & FIN != 0 && !takes_fin
    }

    /// A reset that conntrack would not know: it was not shown what the other side has acknowledged.
    fn is_exact_reset(&self, packet: &[u8], from_server: bool) -> bool {
        let bits = packet[FLAGS] & (FIN | SYN_OR_RST);
        let (other, add) = if from_server {
            (&self.sides[0], self.entry.server_offset)
        } else {
            (&self.sides[1], self.entry.client_offset)
        };
        let exact = word(packet, 24).wrapping_add(add) == other.ack;
        self.recorded.is_none() && bits == RST && other.ack != 0 && exact
    }

    /// Whoever has the connection otherwise is shown this one. `alone`: the owner cannot be told of its end.
    fn shows(&mut self, (now, alone): (Duration, bool), packet: &[u8], from_server: bool) -> bool {
        let side = &mut self.sides[usize::from(from_server)];
        let ack = word(packet, 28);
        if self.recorded.is_none() {
            let before = std::mem::replace(&mut side.ack, ack);
            if from_server && before != ack && (before == 0 || alone) {
                return true;
            }
        }
        let due = side.show_at < now;
        if due {
            side.show_at = now + self.recorded.map_or(SHOWN_EVERY, |recorded| recorded.show.1);
        }
        due
    }

    fn way(&self, from_server: bool) -> Way {
        let entry = &self.entry;
        let (sent, got) = (entry.client_offset, entry.server_offset);
        let (new, add) = if from_server {
            (entry.service, [got, sent.wrapping_neg(), entry.timestamp_offset.wrapping_neg(), 0])
        } else {
            (entry.backend, [sent, got.wrapping_neg(), 0, entry.timestamp_offset])
        };
        let new = v4(new).unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        Way { from_server, new, add, scales: self.rescale[usize::from(from_server)] }
    }
}

impl Side {
    fn record(self) -> Option<Passed> {
        self.passed.map(|passed| Passed { fin: self.fin_end == Some(passed.end), ..passed })
    }

    /// Of the server the newest of each number stays, of the client the latest.
    fn note(&mut self, packet: &[u8], from_server: bool) {
        let fin = packet[FLAGS] & FIN != 0;
        let end = word(packet, 24).wrapping_add((packet.len() - HEADERS) as u32).wrapping_add(u32::from(fin));
        if fin {
            self.fin_end = Some(end);
        }
        let ack = word(packet, 28);
        let (window, timestamps) = (half(packet, 34), (word(packet, 44), word(packet, 48)));
        let latest = Passed { end, fin: false, ack, window, timestamps };
        let old = |new: u32, known: u32| (new.wrapping_sub(known) as i32) < 0;
        self.passed = Some(match self.passed.filter(|_| from_server) {
            None => latest,
            Some(known) => {
                let newest = if old(ack, known.ack) { known } else { latest };
                let stamped = if old(timestamps.0, known.timestamps.0) { known } else { latest };
                let end = if old(end, known.end) { known.end } else { end };
                Passed { end, timestamps: stamped.timestamps, ..newest }
            }
        });
    }
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

fn address(packet: &[u8], ip: usize, port: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(word(packet, ip)), half(packet, port))
}

fn half(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn word(packet: &[u8], at: usize) -> u32 {
    u32::from(half(packet, at)) << 16 | u32::from(half(packet, at + 2))
}
