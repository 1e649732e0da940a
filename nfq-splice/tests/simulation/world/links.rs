//! Hosts at work, and what happens to packets between them.

use super::forger::FORGED;
use super::*;

/// Others overtake a packet that takes so much longer.
const OVERTAKEN: Duration = Duration::from_millis(3);

impl World {
    pub(super) fn run_hosts(&mut self) {
        for number in 0..HOSTS {
            let due = |at: Option<Time>| at.is_some_and(|at| at <= self.now);
            if due(self.host_due[number]) || due(self.app_due[number]) {
                self.run_host(number);
            }
        }
    }

    pub(super) fn run_host(&mut self, number: usize) {
        if number > 0 && self.dead[number - 1] {
            self.host_due[number] = None;
            self.app_due[number] = None;
            return;
        }
        let mut sent = self.hosts[number].poll(self.now);
        let host = &mut self.hosts[number];
        let now = self.now;
        self.app_due[number] = if number == 0 {
            self.clients.iter_mut().filter_map(|client| client.step(host, now, service())).min()
        } else {
            self.servers[number - 1].step(host, now)
        };
        let look = self.hosts[number].unstick(self.now);
        self.app_due[number] = self.app_due[number].into_iter().chain(look).min();
        sent.extend(self.hosts[number].poll(self.now));
        let at = self.hosts[number].poll_at(self.now);
        self.host_due[number] = at.map(|at| at.max(self.now + Duration::from_micros(100)));
        for bytes in sent {
            let middlebox = self.scenario.middleboxes[number];
            for bytes in middlebox.pass(&mut self.rng, bytes) {
                self.sent(number, handshake::as_linux_has_them(fast::in_its_usual_place(bytes)));
            }
        }
    }

    /// Behind the host's middlebox.
    fn sent(&mut self, number: usize, bytes: Vec<u8>) {
        self.serial += 1;
        let from_backend = number.checked_sub(1);
        let window = Some(self.windows.leaves(&TcpSegment::parse(&bytes).unwrap()));
        let packet = Packet { bytes, born: self.serial, from_backend, departed: 0, window };
        let (link, to) = if number == 0 { (0, Node::Proxy) } else { (2, Node::Logger) };
        self.transmit(link, to, packet);
    }

    pub(super) fn transmit(&mut self, link: usize, to: Node, mut packet: Packet) {
        let Faults { loss, duplication, corruption, reordering, delay, extra, planned } =
            self.scenario.links[link];
        self.carried[link] += 1;
        let planned = planned.filter(|(number, _)| *number == self.carried[link]).map(|(_, spoil)| spoil);
        let spoil = self.faults[link] < FAULTS_PER_LINK;
        let mut at = self.now + Duration::from_micros(self.rng.between(delay.0, delay.1));
        // Packets of one link keep their order, unless reordered on purpose.
        let before = self.faults[link];
        if planned == Some(Spoil::Lose) || spoil && self.rng.chance(loss) {
            self.faults[link] += 1;
            self.note(|| format!("link {link}: lost {}", show(&packet.bytes)));
            return;
        }
        if spoil && self.rng.chance(corruption) {
            self.faults[link] += 1;
            let bit = self.rng.below(packet.bytes.len() as u64 * 8) as usize;
            packet.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if planned == Some(Spoil::Duplicate) || spoil && self.rng.chance(duplication) {
            self.faults[link] += 1;
            let again = at + Duration::from_micros(self.rng.below(extra.max(1)));
            self.schedule(again, Event::Arrive(to, packet.clone()));
        }
        if planned == Some(Spoil::Delay) {
            self.faults[link] += 1;
            at = at + OVERTAKEN;
        } else if spoil && self.rng.chance(reordering) {
            self.faults[link] += 1;
            at = at + Duration::from_micros(self.rng.below(extra));
        } else {
            at = self.checks.in_order(link, to, at);
        }
        if self.faults[link] != before {
            self.note(|| format!("link {link}: fault on {}", show(&packet.bytes)));
        }
        self.schedule(at, Event::Arrive(to, packet));
    }

    /// Whether a fault happened on the link.
    pub(crate) fn has_spoiled(&self, link: usize) -> bool {
        self.faults[link] > 0
    }

    pub(super) fn arrive(&mut self, node: Node, packet: Packet) {
        match node {
            Node::Client => {
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
            Node::Backend(number) => {
                if self.dead[number] {
                    return;
                }
                self.note(|| format!("      -> backend{number} {}", show(&packet.bytes)));
                let forged = packet.born == FORGED;
                for bytes in self.scenario.middleboxes[number + 1].pass(&mut self.rng, packet.bytes) {
                    if !forged {
                        self.check_window(&bytes);
                    }
                    self.hosts[number + 1].receive(bytes);
                }
                self.host_due[number + 1] = Some(self.now);
            }
            // A host's network layer has dropped what is corrupt.
            _ if !TcpSegment::parse(&packet.bytes)
                .is_ok_and(|segment| segment.checksums_valid() && known(&segment)) => {}
            Node::Logger => self.arrive_at_logger(packet),
            Node::Proxy => self.arrive_at_proxy(packet),
        }
    }

    fn check_window(&mut self, bytes: &[u8]) {
        let Ok(segment) = TcpSegment::parse(bytes) else { return };
        let recovered = self.orders.values().any(|client| *client == segment.destination());
        if segment.checksums_valid()
            && let Err(why) = self.windows.reaches(&segment, service(), recovered)
        {
            self.checks.fail(format!("{why}: {}", show(bytes)));
        }
    }
}
