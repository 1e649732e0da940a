//! The handshakes that the fast path's program conducts, and what the daemon's shell does around it
//! (`nfq-splice/src/shell/answers.rs`): it writes what the engine promises, and the program goes on with that for a while when it dies.

use std::net::SocketAddr;

use netfilter::fast_path::Answers;
use nfq_splice::SETUP_WINDOW;
use packet::{Flags, SegmentBuilder, TcpOption, TcpSegment};

use super::fast::since_boot;
use super::*;

/// Renewed every second, what the daemon last wrote is good for five.
const VALID_MILLIS: (u64, u64) = (4000, 5000);
/// From one thread of the daemon to another, microseconds.
const POST: (u64, u64) = (10, 300);
/// Whose mailbox.
const CONTROL: usize = 0;
const ENGINE: usize = 1;
/// MSS, SACK-permitted, timestamps and window scale.
const USUAL: [u8; 4] = [2, 3, 4, 8];

/// Options of a SYN, put where Linux puts them.
pub(super) fn as_linux_has_them(packet: Vec<u8>) -> Vec<u8> {
    let Ok(segment) = TcpSegment::parse(&packet) else { return packet };
    let of_others = |option: TcpOption<'_>| !USUAL.contains(&option.kind);
    if segment.flags() != Flags::SYN || !segment.checksums_valid() || segment.options().any(of_others) {
        return packet;
    }
    let bare = SegmentBuilder {
        seq: segment.seq(),
        flags: Flags::SYN,
        window: segment.window(),
        syn: Some(segment.syn_options()),
        timestamps: segment.timestamps(),
        ..SegmentBuilder::new(segment.source(), segment.destination())
    };
    bare.build()
}

impl World {
    pub(super) fn secret(&self) -> Secret {
        Secret::of_life(self.key, self.life)
    }

    /// SYNs answered, acknowledgements taken and packets handed over by all programs so far.
    pub(crate) fn answered(&self) -> Answered {
        let (before, now) = (self.answered_before, self.fast.answered());
        Answered {
            syns: before.syns + now.syns,
            acks: before.acks + now.acks,
            handed_over: before.handed_over + now.handed_over,
        }
    }

    /// To the control thread, if the engine would tell clients something else than before.
    pub(super) fn tell_promise(&mut self) {
        let promise = self.engine.promise();
        if !self.down && self.scenario.program_answers() && self.promise != Some(promise) {
            self.promise = Some(promise);
            let at = self.post(CONTROL);
            self.schedule(at, Event::Answer(self.session, promise));
        }
    }

    /// When it is there. A mailbox keeps the order.
    fn post(&mut self, mailbox: usize) -> Time {
        let at = self.now + Duration::from_micros(self.rng.between(POST.0, POST.1));
        self.posted[mailbox] = self.posted[mailbox].max(at);
        self.posted[mailbox]
    }

    pub(super) fn answer(&mut self, promise: Promise) {
        let SocketAddr::V4(service) = service() else { return };
        self.note(|| format!("the program answers with {promise:?}"));
        let answers = Answers {
            service,
            key: self.secret().key(),
            lead: self.secret().lead(),
            mss: promise.mss,
            window_scale: promise.window_scale,
            window: SETUP_WINDOW as u16,
            takes_acks: true,
            until: Duration::MAX,
            owned_until: Duration::MAX,
        };
        self.fast.answer(&answers);
        self.fast.know_backends(&std::array::from_fn::<_, BACKENDS, _>(sim::addresses::backend));
        let at = self.post(ENGINE);
        self.schedule(at, Event::Promised(self.session, promise));
    }

    /// The answer to a SYN, which it was.
    pub(super) fn route_answer(&mut self, packet: Packet) {
        self.note(|| format!("the program answers {}", show(&packet.bytes)));
        self.serial += 1;
        self.route(Packet { born: self.serial, from_backend: None, window: None, ..packet });
    }

    /// The daemon has died.
    pub(super) fn leave_answers(&mut self) {
        let valid = Duration::from_millis(self.rng.between(VALID_MILLIS.0, VALID_MILLIS.1));
        self.fast.answer_until(since_boot(self.now) + valid);
        self.promise = None;
        self.life += 1;
        if self.scenario.secrets_lost {
            self.key[0] = self.key[0].wrapping_add(1);
            self.life = 0;
        }
    }

    /// Whoever has begun and is not kept has a cookie that nobody can check any more.
    pub(super) fn excuse_cookies(&mut self) {
        for client in self.clients.iter().filter(|client| client.phase == Phase::Running) {
            let address = client_address(client.port);
            let kept = self.engine.status().connections.iter().any(|known| known.client == address);
            if client.habits.start <= self.now && !kept {
                self.excuses.entry(address).or_insert("the secrets were lost".to_owned());
            }
        }
    }
}

#[test]
fn options_are_moved() {
    let [from, to] = ["192.0.2.1:7", "192.0.2.2:80"].map(|address| address.parse().unwrap());
    let offer =
        packet::SynOptions { mss: Some(1400), window_scale: Some(3), sack_permitted: true, timestamp: None };
    let usual = SegmentBuilder {
        flags: Flags::SYN,
        syn: Some(offer),
        timestamps: Some((7, 0)),
        ..SegmentBuilder::new(from, to)
    };
    let usual = usual.build();
    // As smoltcp has them: scale, SACK, timestamps behind the MSS.
    let mut other = usual.clone();
    other[44..60].copy_from_slice(&[3, 3, 3, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 0]);
    packet::fill_checksum(&mut other).unwrap();
    assert_eq!(as_linux_has_them(other), usual);
}

#[test]
fn mailboxes_keep_the_order() {
    let mut world = World::new(1, false);
    let posted: Vec<Time> = (0..100).map(|_| world.post(CONTROL)).collect();
    assert!(posted.is_sorted());
}
