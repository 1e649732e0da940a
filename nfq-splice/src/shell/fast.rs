//! The fast path of all threads: there, or why not; and what it tells of connections that this daemon translates itself.

use std::net::SocketAddr;
use std::sync::Arc;

use cluster::config::Cluster;
use cluster::control::Client;
use netfilter::fast_path::{FastPath, Owners, Passed};
use nfq_splice::{Engine, KernelSplice};
use nft_rules::placement::SEED;
use nft_rules::proxy_queues;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Time};

use super::kernel::Kernel;

/// Opens it for this proxy's connections. Where it is not wanted or cannot be, conntrack translates all, and an earlier daemon's
/// program, which would not hear of what is spliced otherwise now, is taken away.
pub(super) fn open(cluster: &Cluster) -> Option<Arc<FastPath>> {
    let wanted = cluster.splice.fast_path && cluster.service.address.is_ipv4() && !logs_here(cluster);
    let connections = u32::try_from(cluster.splice.connections).unwrap_or(u32::MAX);
    let owners = Owners { threads: proxy_queues(cluster), seed: SEED };
    let opened = wanted.then(|| FastPath::open(connections, owners));
    if let Some(Ok(fast)) = opened {
        return Some(Arc::new(fast));
    }
    if let Some(Err(error)) = opened {
        tracing::info!(%error, "no fast path; conntrack translates all");
    }
    if let Err(error) = FastPath::detach_any() {
        tracing::debug!(%error, "no earlier fast path was looked for");
    }
    None
}

/// A logger on a proxy's host must see what is forwarded there.
fn logs_here(cluster: &Cluster) -> bool {
    let mut loggers = cluster.loggers.values().map(|logger| logger.control.ip());
    loggers
        .any(|logger| logger.is_loopback() || cluster.proxies.values().any(|proxy| proxy.address == logger))
}

/// Once all that is spliced already is in it, and all that has `ended` but is not forgotten, it replaces an earlier daemon's. Gives the
/// number of interfaces where it is.
pub(super) fn attach(
    fast: &FastPath,
    kernel: &mut Kernel,
    entries: &[KernelSplice],
    ended: &[KernelSplice],
) -> usize {
    for splice in entries {
        kernel.speed_up_splice(splice);
    }
    for splice in ended {
        kernel.leave_alone(splice.client);
    }
    if let Err(error) = fast.take_over() {
        tracing::debug!(%error, "what passed before is not known");
    }
    let attached = fast.attach().inspect_err(|error| {
        tracing::warn!(%error, "no fast path at some interfaces; conntrack translates there");
    });
    attached.unwrap_or(0)
}

/// What went past the daemon, told to its engine in time.
pub(super) struct Passing {
    fast: Option<Arc<FastPath>>,
    service: SocketAddr,
}

impl Passing {
    pub(super) fn new(fast: Option<Arc<FastPath>>, service: SocketAddr) -> Self {
        Self { fast, service }
    }

    pub(super) fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// Before the engine gets this packet. One that ends its connection, or claims to, takes it off the fast path: then its client is given
    /// back, for [`Engine::handle_set_aside`] after the packet.
    #[must_use]
    pub(super) fn before_packet(&self, engine: &mut Engine, payload: &[u8], now: Time) -> Option<Client> {
        let fast = self.fast.as_deref()?;
        let client = engine.passed_by(payload)?;
        let ends = TcpSegment::parse(payload).is_ok_and(|segment| ends(segment.flags()));
        let passed = if ends {
            known(client, fast.set_aside(client))
        } else {
            let found = look(Some(fast), client);
            engine.handle_place(client, found.is_some());
            found.unwrap_or_default()
        };
        tell(engine, (client, self.service), passed, now);
        ends.then_some(client)
    }

    /// Before the engine is told to do something about this client's connection; nothing goes past it any more.
    pub(super) fn before_order(&self, engine: &mut Engine, client: Client, now: Time) {
        let passed = self.fast.as_deref().map_or(Ok([None; 2]), |fast| fast.set_aside(client));
        tell(engine, (client, self.service), known(client, passed), now);
    }
}

/// A SYN-ACK that a backend repeats does not.
fn ends(flags: Flags) -> bool {
    flags.syn() && !flags.ack() || flags.fin() || flags.rst()
}

/// Takes a connection off the fast path; what passed of its client and of its server.
pub(super) fn take(fast: Option<&FastPath>, client: Client) -> [Option<Passed>; 2] {
    fast.map_or([None; 2], |fast| known(client, fast.take(client)))
}

/// The same, and it stays; `None`: there is nothing of it.
pub(super) fn look(fast: Option<&FastPath>, client: Client) -> Option<[Option<Passed>; 2]> {
    match fast?.look(client) {
        Ok(found) => found,
        Err(error) => Some(known(client, Err(error))),
    }
}

fn known(client: Client, passed: Result<[Option<Passed>; 2], netfilter::Error>) -> [Option<Passed>; 2] {
    passed.unwrap_or_else(|error| {
        tracing::debug!(%client, %error, "what passed is not known");
        [None; 2]
    })
}

/// The server's before the client's, which acknowledges it.
pub(super) fn tell(
    engine: &mut Engine,
    (client, service): (Client, SocketAddr),
    [of_client, of_server]: [Option<Passed>; 2],
    now: Time,
) {
    for (passed, from, to) in [(of_server, service, client), (of_client, client, service)] {
        if let Some(Passed { end, fin, ack, window, timestamps }) = passed {
            let segment = SegmentBuilder {
                seq: Seq(end) - u32::from(fin),
                ack: Some(Seq(ack)),
                flags: if fin { Flags::FIN } else { Flags(0) },
                window,
                timestamps: Some(timestamps),
                ..SegmentBuilder::new(from, to)
            };
            engine.handle_passed(now, &segment.build());
        }
    }
}
