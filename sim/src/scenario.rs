//! What one seed means: who asks for what, and what goes wrong when.

use std::time::Duration;

use cluster::config::{Cluster, PoolState, SplicePath};
use packet::Time;

use crate::addresses::{BACKENDS, backend, router, service, set_family};
use crate::apps::Habits;
use crate::content::{self, Variant};
use crate::control::Channel;
use crate::middlebox::Middlebox;

mod random;

/// Packets that one link spoils at most: the fault budget that makes progress certain.
pub const FAULTS_PER_LINK: u32 = 60;
/// Control messages that are doubled at most.
pub const DOUBLED_MESSAGES: u32 = 10;

fn config() -> String {
    let backends = [0, 1, 2].map(|n| format!("[backend.b{n}]\naddress = \"{}\"\n", backend(n))).concat();
    format!(
        r#"
[cluster]
name = "simulation"
[service]
address = "{}"
[[route]]
pool = "web"
[pool.web]
backends = ["b0", "b1", "b2"]
{backends}
[proxy.p1]
address = "{}"
[logger.l1]
control = "{}"
[[tag]]
method = ["GET", "HEAD"]
deterministic = true
read_only = true
idempotent = true
[[tag]]
path = "/safe"
deterministic = true
idempotent = true
"#,
        service(),
        router(),
        std::net::SocketAddr::new(router(), 7070)
    )
}

/// Per mille of packets, and delays in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplication: u64,
    pub corruption: u64,
    pub reordering: u64,
    pub delay: (u64, u64),
    pub extra: u64,
}

impl Faults {
    pub fn is_clean(&self) -> bool {
        self.loss + self.duplication + self.corruption + self.reordering == 0
    }
}

/// How a backend fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host is cut off: nothing comes or goes.
    Silent,
    /// The process dies, its kernel closes.
    Fin,
    /// The process dies, its kernel resets.
    Reset,
    /// The process stands still, its kernel does not.
    Frozen,
}

#[derive(Debug, Clone, Copy)]
pub enum When {
    At(Time),
    /// So many response bytes of some connection with it have been logged.
    Logged(usize),
}

/// A backend's failure.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub backend: usize,
    pub kind: Kind,
    pub when: When,
    /// Then it is as it was before: what was silent or frozen speaks again, a killed process is started anew.
    pub back: Option<Duration>,
}

/// The four daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    Proxy,
    Logger,
    Transactionalizer,
    Manager,
}

pub const DAEMONS: [Daemon; 4] = [Daemon::Proxy, Daemon::Logger, Daemon::Transactionalizer, Daemon::Manager];

#[derive(Debug, Clone, Copy)]
pub enum CrashAt {
    Time(Time),
    /// The daemon's step: after it has taken something in and before it acts, or before one of its actions.
    Step(u64),
}

/// A daemon dies, and is started anew.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    pub daemon: Daemon,
    pub at: CrashAt,
    pub down: Duration,
}

/// A control connection breaks.
#[derive(Debug, Clone, Copy)]
pub struct Break {
    pub channel: Channel,
    pub at: Time,
    /// What is under way is lost.
    pub loses: bool,
}

/// The daemons' environment.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// Of messages, in microseconds.
    pub delay: (u64, u64),
    /// Per mille of messages between the manager and the others that come twice.
    pub doubled: u64,
    /// From a record's commit until the transactionalizer has read it, microseconds.
    pub reading: (u64, u64),
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub cluster: Cluster,
    pub v6: bool,
    pub client_timestamps: bool,
    pub backend_timestamps: [bool; BACKENDS],
    pub client_mtu: usize,
    pub receive_buffers: [usize; BACKENDS],
    pub send_buffer: usize,
    pub service_time: Duration,
    pub links: [Faults; 3],
    pub clients: Vec<Habits>,
    pub variants: Vec<Variant>,
    /// This backend's application stops after so many bytes of a connection.
    pub stalls: Option<(usize, usize)>,
    pub failures: Vec<Failure>,
    pub crashes: Vec<Crash>,
    pub breaks: Vec<Break>,
    pub control: Control,
    pub ring_bytes: usize,
    /// On the accesses of client and backends.
    pub middleboxes: [Middlebox; BACKENDS + 1],
    /// Per mille of splices that the kernel refuses.
    pub refusals: u64,
}

pub fn millis(n: u64) -> Time {
    Time::from_millis(n)
}

impl Scenario {
    /// One client, perfect links, nothing fails.
    pub fn plain(v6: bool, client: Habits) -> Self {
        set_family(v6);
        let mut cluster = Cluster::parse(&config(), "simulation").unwrap();
        cluster.splice.mss = 1400;
        cluster.splice.path = SplicePath::Kernel;
        let link = Faults { delay: (50, 50), ..Faults::default() };
        Self {
            client_timestamps: true,
            backend_timestamps: [true; BACKENDS],
            client_mtu: 1500,
            receive_buffers: [65_535; BACKENDS],
            send_buffer: 65_535,
            service_time: Duration::ZERO,
            links: [(); 3].map(|()| link.clone()),
            clients: vec![client],
            variants: vec![Variant::default(); BACKENDS],
            stalls: None,
            failures: Vec::new(),
            crashes: Vec::new(),
            breaks: Vec::new(),
            control: Control { delay: (50, 50), doubled: 0, reading: (5, 5) },
            ring_bytes: 64 << 20,
            middleboxes: [Middlebox::default(); BACKENDS + 1],
            refusals: 0,
            cluster,
            v6,
        }
    }

    /// Each backend has its own state.
    #[must_use]
    pub fn separate(mut self) -> Self {
        self.cluster.pools.values_mut().for_each(|pool| pool.state = PoolState::Separate);
        self
    }

    /// The backends cut the same content into other chunks.
    pub fn rechunks(&self) -> bool {
        content::rechunk(&self.variants)
    }

    /// The backends answer differently.
    pub fn differs(&self) -> bool {
        content::differ(&self.variants)
    }
}
