//! Any order of reports, outcomes, broken connections and time: what must hold all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster::config::Cluster;
use cluster::control::{
    ConnectionReport, Evidence, Flow, FromLog, FromProxy, Outcome, PendingRequest, RecoveryOrder, Tags,
    ToLog, ToProxy,
};
use packet::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use recovery_manager::{Action, Limits, LoggerId, Manager, Now, Story};

const LIMIT: usize = 5;
const LOGGER: LoggerId = LoggerId(0);

#[derive(Debug, Clone)]
enum Input {
    Failed {
        down: bool,
        silent: bool,
        backend: u8,
        clients: Vec<(u16, u32, bool)>,
        repeated: bool,
    },
    BackendUp(u8),
    /// For the order that was given so many orders ago.
    Ended {
        back: usize,
        outcome: u8,
    },
    Proxy(bool),
    Log(bool),
    Pass(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let clients = vec((0..8_u16, 0..3_u32, prop::bool::weighted(0.2)), 0..4);
    let (down, repeated) = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let failed = (down, any::<bool>(), 1..=4_u8, clients, repeated).prop_map(
        |(down, silent, backend, clients, repeated)| Input::Failed {
            down,
            silent,
            backend,
            clients,
            repeated,
        },
    );
    prop_oneof![
        5 => failed,
        2 => (1..=4_u8).prop_map(Input::BackendUp),
        5 => (0..6_usize, 0..4_u8).prop_map(|(back, outcome)| Input::Ended { back, outcome }),
        1 => any::<bool>().prop_map(Input::Proxy),
        1 => any::<bool>().prop_map(Input::Log),
        2 => (0..400_u64).prop_map(Input::Pass),
    ]
}

fn backend(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 80))
}

/// 1, 2 and 3 stand in for each other, 4 for nobody.
fn manager() -> Manager {
    let backend = |n| format!("[backend.b{n}]\naddress = \"{}\"\n", backend(n));
    let backends = (1..=4).map(backend).collect::<Vec<_>>().concat();
    let text = format!(
        "[cluster]\nname = \"t\"\n[service]\naddress = \"192.0.2.1:80\"\n[[route]]\npool = \"web\"\n\
         [pool.web]\nbackends = [\"b1\", \"b2\", \"b3\"]\n[pool.one]\nbackends = [\"b4\"]\n{backends}\
         [proxy.p]\naddress = \"127.0.0.1\"\n[logger.l]\ncontrol = \"127.0.0.1:7001\"\n\
         [recovery]\ntimeout_ms = 1000\nalternate_limit = 2\n"
    );
    let limits = Limits { recoveries: LIMIT, recent: 4, waiting_resets: 4, ..Limits::default() };
    Manager::new(&Cluster::parse(&text, "test").unwrap(), limits, 1)
}

fn report(client: u16, failed: u8, epoch: u32, update: bool) -> ConnectionReport {
    let request = PendingRequest {
        volatile_headers: None,
        ordinal: 1,
        summary: "X".to_owned(),
        tags: Tags { read_only: !update, ..Tags::default() },
        complete: true,
        bytes: b"X".to_vec(),
    };
    ConnectionReport {
        client_next: epoch,
        pending: vec![request],
        ..ConnectionReport::new(Flow {
            client: SocketAddr::from(([203, 0, 113, 5], client)),
            backend: backend(failed),
        })
    }
}

/// The manager, and what the outside knows of it.
struct Model {
    manager: Manager,
    now: u64,
    number: u64,
    proxy: bool,
    log: bool,
    /// Called down, and whether only for its silence.
    down: BTreeMap<SocketAddr, bool>,
    orders: Vec<RecoveryOrder>,
    /// Also orders that the proxy was not there for.
    planned: Vec<(Flow, SocketAddr)>,
    by_id: BTreeMap<u64, RecoveryOrder>,
    noticed: usize,
    ended: usize,
}

impl Model {
    fn new() -> Self {
        Self {
            manager: manager(),
            now: 0,
            number: 0,
            proxy: false,
            log: false,
            down: BTreeMap::new(),
            orders: Vec::new(),
            planned: Vec::new(),
            by_id: BTreeMap::new(),
            noticed: 0,
            ended: 0,
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: Time::from_millis(self.now), unix_ms: self.now }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Failed { down, silent, backend: failed, clients, repeated } => {
                self.fail(down.then_some(silent), silent, failed, &clients, repeated);
            }
            Input::BackendUp(n) if self.log => {
                self.down.remove(&backend(n));
                self.manager.handle_log(self.now(), LOGGER, FromLog::BackendUp { backend: backend(n) });
            }
            Input::Ended { back, outcome } if self.proxy => self.end(back, outcome),
            Input::Proxy(up) if up != self.proxy => {
                self.proxy = up;
                if up {
                    self.manager.handle_proxy_connected(self.now().monotonic);
                } else {
                    self.manager.handle_proxy_disconnected(self.now().monotonic);
                }
            }
            Input::Log(up) if up != self.log => {
                self.log = up;
                self.number = 0;
                if up {
                    self.manager.handle_log_connected(LOGGER);
                } else {
                    self.manager.handle_log_disconnected(LOGGER);
                }
            }
            Input::Pass(ms) => self.pass(ms),
            _ => {}
        }
        self.check_actions();
    }

    fn fail(
        &mut self,
        down: Option<bool>,
        silent: bool,
        failed: u8,
        clients: &[(u16, u32, bool)],
        repeated: bool,
    ) {
        if !self.log {
            return;
        }
        self.number += u64::from(!repeated || self.number == 0);
        let down = down.filter(|_| !repeated);
        self.down.extend(down.map(|silent| (backend(failed), silent)));
        let connections =
            clients.iter().map(|(client, epoch, update)| report(*client, failed, *epoch, *update)).collect();
        let message = FromLog::Failed {
            number: self.number,
            evidence: if silent { Evidence::HostSilent } else { Evidence::PrematureFin },
            noticed_us: 0,
            backend_down: down.is_some(),
            backend: backend(failed),
            connections,
        };
        self.manager.handle_log(self.now(), LOGGER, message);
    }

    fn end(&mut self, back: usize, outcome: u8) {
        let Some(place) = self.orders.len().checked_sub(back + 1) else { return };
        let id = self.orders[place].id;
        let outcome = match outcome {
            0 => Outcome::Respliced { resent: 0, taken_in: 0, steps: Vec::new() },
            1 => Outcome::AlternateFailed(String::new()),
            2 => Outcome::Mismatch { at: 0, before: Vec::new(), logged: Vec::new(), alternate: Vec::new() },
            _ => Outcome::Gone(String::new()),
        };
        self.manager.handle_proxy(self.now(), FromProxy::Ended { id, outcome });
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.manager.handle_timeout(self.now().monotonic);
        if let Some(due) = self.manager.poll_timeout() {
            assert!(due > self.now().monotonic, "a timer that is due was not handled");
        }
    }

    fn check_actions(&mut self) {
        // Orders that were decided on while the proxy was away follow a greeting.
        let mut greeted = false;
        while let Some(action) = self.manager.poll_action(self.now().monotonic) {
            match action {
                Action::ToProxy(message) => {
                    assert!(self.proxy, "the proxy is not there for {message:?}");
                    greeted |= matches!(message, ToProxy::Subscribe { .. });
                    if let ToProxy::Recover(orders) = message {
                        for order in orders {
                            self.check_order(order, greeted);
                        }
                    }
                }
                Action::ToLog(logger, message) => {
                    assert!(self.log && logger == LOGGER);
                    if let ToLog::Ended { backend: Some(backend), .. } = message {
                        assert!(self.orders.iter().any(|order| order.alternate == backend));
                    }
                }
                Action::Tell(Story::Noticed { .. }) => self.noticed += 1,
                Action::Tell(Story::Ended(_)) => self.ended += 1,
                Action::Tell(Story::Planned { flow, alternate, .. }) => self.planned.push((flow, alternate)),
                Action::Tell(_) => {}
            }
        }
        let running = self.manager.status().counters["recoveries_running"] as usize;
        assert!(running <= LIMIT);
        assert_eq!(self.noticed - self.ended, running, "each failure ends exactly once");
    }

    /// It is up, or was only silent and there is nobody else.
    fn check_alternate(&self, order: &RecoveryOrder, earlier: bool) {
        let Some(silent) = self.down.get(&order.alternate) else { return };
        assert!(silent, "{} is down", order.alternate);
        let tried = |address| self.planned.contains(&(order.flow, address));
        let others = (1..=3).map(backend).filter(|other| *other != order.flow.backend);
        let better: Vec<_> =
            others.filter(|other| !self.down.contains_key(other) && !tried(*other)).collect();
        assert!(earlier || better.is_empty(), "{} is down, {better:?} are not", order.alternate);
    }

    fn check_order(&mut self, order: RecoveryOrder, earlier: bool) {
        assert_ne!(order.alternate, order.flow.backend);
        if let Some(first) = self.by_id.get(&order.id) {
            assert_eq!(first, &order, "the same number, another order");
            return;
        }
        let newest = self.orders.iter().rfind(|earlier| earlier.flow.client == order.flow.client);
        assert!(newest.is_none_or(|earlier| earlier.id < order.id), "a client's orders go back in time");
        self.check_alternate(&order, earlier);
        self.by_id.insert(order.id, order.clone());
        self.orders.push(order);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_failure_ends_once_on_a_living_alternate_or_with_a_reset(inputs in vec(input(), 1..80)) {
        let mut model = Model::new();
        model.apply(Input::Proxy(true));
        model.apply(Input::Log(true));
        for input in inputs {
            model.apply(input);
        }
        for _ in 0..4 {
            model.apply(Input::Pass(1000));
        }
        prop_assert_eq!(model.manager.poll_timeout(), None);
        prop_assert_eq!(model.noticed, model.ended);
        let counters = model.manager.status().counters;
        prop_assert_eq!(counters["recoveries_waiting"], 0);
        prop_assert_eq!((counters["orders_open"], counters["report_bytes_held"]), (0, 0));
    }
}
