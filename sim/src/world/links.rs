//! What happens to packets between the hosts.

use packet::TcpSegment;

use super::*;
use crate::addresses::{backend_number, service};
use crate::net::show;
use crate::scenario::{FAULTS_PER_LINK, Faults};

impl World {
    /// A host sends a packet, which has passed its middlebox.
    pub(super) fn sent(&mut self, number: usize, bytes: Vec<u8>) {
        self.serial += 1;
        let from_backend = number.checked_sub(1);
        let window = Some(self.windows.leaves(&TcpSegment::parse(&bytes).unwrap()));
        if from_backend.is_some_and(|number| self.backends[number].silent) {
            return;
        }
        let packet = Packet { bytes, born: self.serial, from_backend, departed: 0, window };
        let (link, to) = if number == 0 { (0, Node::Proxy) } else { (2, Node::Logger) };
        self.transmit(link, to, packet);
    }

    pub(super) fn transmit(&mut self, link: usize, to: Node, mut packet: Packet) {
        let Faults { loss, duplication, corruption, reordering, delay, extra } = self.scenario.links[link];
        let spoil = self.faults[link] < FAULTS_PER_LINK;
        let mut at = self.now + Duration::from_micros(self.rng.between(delay.0, delay.1));
        let before = self.faults[link];
        if spoil && self.rng.chance(loss) {
            self.faults[link] += 1;
            return self.note(|| format!("link {link}: lost {}", show(&packet.bytes)));
        }
        if spoil && self.rng.chance(corruption) {
            self.faults[link] += 1;
            let bit = self.rng.below(packet.bytes.len() as u64 * 8) as usize;
            packet.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if spoil && self.rng.chance(duplication) {
            self.faults[link] += 1;
            let again = at + Duration::from_micros(self.rng.below(extra.max(1)));
            self.events.push(again, Event::Arrive(to, packet.clone()));
        }
        // Packets of one link keep their order, unless reordered on purpose.
        if spoil && self.rng.chance(reordering) {
            self.faults[link] += 1;
            at = at + Duration::from_micros(self.rng.below(extra));
        } else {
            at = self.checks.in_order(link, to, at);
        }
        if self.faults[link] != before {
            self.note(|| format!("link {link}: fault on {}", show(&packet.bytes)));
        }
        self.events.push(at, Event::Arrive(to, packet));
    }

    pub(super) fn arrive(&mut self, node: Node, packet: Packet) {
        match node {
            Node::Client => self.arrive_at_client(packet),
            Node::Backend(number) if self.backends[number].silent => {}
            Node::Backend(number) => self.arrive_at_backend(number, packet),
            // A host's network layer has dropped what is corrupt.
            _ if !TcpSegment::parse(&packet.bytes)
                .is_ok_and(|segment| segment.checksums_valid() && known(&segment)) => {}
            Node::Logger => self.arrive_at_logger(packet),
            Node::Proxy => self.arrive_at_proxy(packet),
        }
    }

    fn arrive_at_client(&mut self, packet: Packet) {
        self.note(|| format!("      -> client   {}", show(&packet.bytes)));
        let is_strange =
            TcpSegment::parse(&packet.bytes).is_ok_and(|segment| self.hosts[0].is_strange(&segment));
        self.checks.at_client(&packet, is_strange);
        for bytes in self.scenario.middleboxes[0].pass(&mut self.rng, packet.bytes) {
            self.check_window(&bytes);
            self.hosts[0].receive(bytes);
        }
        self.host_due[0] = Some(self.now);
    }

    fn arrive_at_backend(&mut self, number: usize, packet: Packet) {
        self.note(|| format!("      -> backend{number} {}", show(&packet.bytes)));
        for bytes in self.scenario.middleboxes[number + 1].pass(&mut self.rng, packet.bytes) {
            self.check_window(&bytes);
            self.hosts[number + 1].receive(bytes);
        }
        self.host_due[number + 1] = Some(self.now);
    }

    fn check_window(&mut self, bytes: &[u8]) {
        let Ok(segment) = TcpSegment::parse(bytes) else { return };
        let recovered = self.recovered.contains(&segment.destination());
        if segment.checksums_valid()
            && let Err(why) = self.windows.reaches(&segment, service(), recovered)
        {
            self.checks.fail(format!("{why}: {}", show(bytes)));
        }
    }
}

/// Corruption may have made it another connection's, with a checksum that fits by accident.
fn known(segment: &TcpSegment<'_>) -> bool {
    let ours = |address: std::net::SocketAddr| {
        address.ip() == client_host() || address == service() || backend_number(address).is_some()
    };
    ours(segment.source()) && ours(segment.destination())
}
