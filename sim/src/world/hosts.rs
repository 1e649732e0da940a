//! The clients' host and the backends at work.

use super::*;

/// The clients' host, then the backends'.
pub(super) fn make(scenario: &Scenario, rng: &mut Rng) -> Vec<Host> {
    let client = Host::new(0, client_host(), rng.draw(), scenario.client_timestamps, scenario.client_mtu);
    let backends = (0..BACKENDS).map(|number| {
        let timestamps = scenario.backend_timestamps[number];
        Host::new(number + 1, backend(number).ip(), rng.draw(), timestamps, 1600)
    });
    let mut hosts: Vec<Host> = [client].into_iter().chain(backends).collect();
    for host in &mut hosts {
        host.spares_closed_windows = true;
    }
    hosts
}

pub(super) fn servers(scenario: &Scenario, hosts: &mut [Host]) -> Vec<Server> {
    let server = |number: usize| {
        let receive = scenario.receive_buffers[number];
        let variant = scenario.variants[number];
        let mut server = Server::new(&mut hosts[number + 1], 8, receive, scenario.send_buffer, variant);
        server.service_time = scenario.service_time;
        server.stalls = scenario.stalls.filter(|(stalling, _)| *stalling == number).map(|(_, bytes)| bytes);
        server
    };
    (0..BACKENDS).map(server).collect()
}

impl World {
    pub(super) fn run_hosts(&mut self) {
        for number in 0..HOSTS {
            let due = |at: Option<Time>| at.is_some_and(|at| at <= self.now);
            if due(self.host_due[number]) || due(self.app_due[number]) {
                self.run_host(number);
            }
        }
    }

    fn run_host(&mut self, number: usize) {
        let mut sent = self.hosts[number].poll(self.now);
        self.app_due[number] = self.run_application(number);
        let look = self.hosts[number].unstick(self.now);
        self.app_due[number] = self.app_due[number].into_iter().chain(look).min();
        sent.extend(self.hosts[number].poll(self.now));
        let at = self.hosts[number].poll_at(self.now);
        self.host_due[number] = at.map(|at| at.max(self.now + Duration::from_micros(100)));
        for bytes in sent {
            let middlebox = self.scenario.middleboxes[number];
            for bytes in middlebox.pass(&mut self.rng, bytes) {
                self.sent(number, bytes);
            }
        }
    }

    fn run_application(&mut self, number: usize) -> Option<Time> {
        let (host, now) = (&mut self.hosts[number], self.now);
        match number.checked_sub(1) {
            None => self
                .clients
                .iter_mut()
                .filter_map(|client| client.step(host, now, crate::addresses::service()))
                .min(),
            Some(number) if self.backends[number].frozen => None,
            Some(number) => self.servers[number].step(host, now),
        }
    }
}
