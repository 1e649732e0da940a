//! Which backend gets a request: the first route that matches leads to a pool, the pool chooses among its usable backends.
//!
//! * [`conditions`]: whether a route matches a request;
//! * [`pool`]: turn by turn or by consistent hash, in proportion to weights;
//! * [`backends`]: what is known of the backends, and what the operator wants of them.

mod backends;
mod conditions;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use cluster::config::{BackendState, Cluster, Route};
use cluster::control::BackendStatus;
use http1::RequestHead;

use backends::Backends;
use pool::Pool;

pub use pool::Unusable;

/// The configuration's routes and pools, with the backends' states.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Each with its pool's place.
    routes: Vec<(Route, usize)>,
    pools: Vec<Pool>,
    backends: Backends,
    /// Requests that no route matched.
    unrouted: u64,
}

/// Why no backend was found; each is answered by the proxy itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBackend {
    /// No route matches: 404.
    NoRoute,
    /// No backend of the pool may get a new connection: 503.
    NoneUsable(Unusable),
    /// All that may were tried: 502.
    NoneAnswers,
}

impl Routing {
    /// Takes routes, pools and backends of a checked configuration.
    pub fn new(cluster: &Cluster) -> Self {
        let mut routing = Self {
            routes: routes(cluster),
            pools: cluster.pools.iter().map(|(name, pool)| Pool::new(cluster, name, pool)).collect(),
            backends: Backends::new(cluster),
            unrouted: 0,
        };
        routing.tell_pools();
        routing
    }

    /// Makes way for `new`, another configuration's: what failed stays down, what the operator said of a backend that is
    /// still there holds, and those of `used` that are not there any more stay known, because connections to them go on.
    pub fn replace(&mut self, new: Self, used: &BTreeSet<SocketAddr>) {
        let Self { routes, mut pools, backends, unrouted: _ } = new;
        for old in &self.pools {
            pools
                .iter_mut()
                .filter(|pool| pool.name() == old.name())
                .for_each(|pool| pool.go_on_counting(old));
        }
        self.routes = routes;
        self.pools = pools;
        self.backends.replace(backends, used);
        self.tell_pools();
    }

    /// A backend for a new connection that is not in `tried`. Without a request, because another protocol than HTTP is spoken, the
    /// first route takes it.
    pub fn choose<'r>(
        &mut self,
        request: impl Into<Option<&'r RequestHead>>,
        client: IpAddr,
        tried: &[SocketAddr],
    ) -> Result<SocketAddr, NoBackend> {
        let request = request.into();
        let fits = |route: &Route| request.is_none_or(|request| conditions::fit(route, request));
        let route = self.routes.iter().find(|(route, _)| fits(route));
        let pool = route.and_then(|(_, pool)| self.pools.get_mut(*pool));
        let Some(pool) = pool else {
            self.unrouted += 1;
            return Err(NoBackend::NoRoute);
        };
        pool.choose(request, client, tried)
    }

    /// A backend failed, or answers again.
    pub fn set(&mut self, backend: SocketAddr, up: bool) {
        if self.backends.set_down(backend, !up) {
            self.tell_pools();
        }
    }

    /// What the operator wants of the backend of this name, whatever the configuration says; false if there is none.
    pub fn order(&mut self, name: &str, state: BackendState) -> bool {
        let known = self.backends.order(name, state);
        if known {
            self.tell_pools();
        }
        known
    }

    /// All that the operator said and that the configuration does not.
    pub fn orders(&self) -> &BTreeMap<String, BackendState> {
        self.backends.orders()
    }

    /// `address` is one of the backends, or was one and still has connections.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.backends.knows(address)
    }

    /// A connection to this backend was found, which the configuration may not name any more.
    pub fn remember(&mut self, backend: SocketAddr) {
        self.backends.remember(backend);
    }

    /// Backends that the configuration does not name any more, but that had connections when it was read.
    pub fn former(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.backends.former()
    }

    /// Every backend once, with so many connections as `connections` says.
    pub fn states(&self, connections: &BTreeMap<SocketAddr, u64>) -> Vec<BackendStatus> {
        self.backends.states(connections)
    }

    /// Backends that new connections may go to.
    pub fn usable(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.backends.usable()
    }

    /// Each backend of the configuration, and what the operator wants of it.
    pub fn wanted(&self) -> Vec<(SocketAddr, BackendState)> {
        self.backends.wanted()
    }

    /// What was counted, by name.
    pub fn counters(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let unrouted = (self.unrouted > 0).then(|| ("no_route".to_owned(), self.unrouted));
        self.pools.iter().flat_map(Pool::counters).chain(unrouted)
    }

    fn tell_pools(&mut self) {
        for pool in &mut self.pools {
            pool.set_states(&|address| self.backends.unusable(address));
        }
    }
}

fn routes(cluster: &Cluster) -> Vec<(Route, usize)> {
    let place = |route: &Route| cluster.pools.keys().position(|name| *name == route.pool);
    cluster.routes.iter().filter_map(|route| Some((route.clone(), place(route)?))).collect()
}
