//! Which backend gets a request: routes by host and path prefix to pools, then the next usable backend of the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use cluster::config::{Cluster, Route};

/// The configuration's routes and pools, with the backends' states.
#[derive(Debug, Clone)]
pub struct Routing {
    routes: Vec<Route>,
    pools: BTreeMap<String, Pool>,
    down: BTreeSet<SocketAddr>,
}

#[derive(Debug, Clone)]
struct Pool {
    backends: Vec<SocketAddr>,
    next: usize,
}

/// Why no backend was found; each is answered by the proxy itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBackend {
    /// No route matches: 404.
    NoRoute,
    /// Every backend of the pool is down or was tried: 503.
    NoneUsable,
}

impl Routing {
    /// Takes the routes and pools of a checked configuration.
    pub fn new(cluster: &Cluster) -> Self {
        let address = |name: &String| cluster.backends.get(name).map(|backend| backend.address);
        let pool = |pool: &cluster::config::Pool| Pool {
            backends: pool.backends.iter().filter_map(address).collect(),
            next: 0,
        };
        Self {
            routes: cluster.routes.clone(),
            pools: cluster.pools.iter().map(|(name, members)| (name.clone(), pool(members))).collect(),
            down: BTreeSet::new(),
        }
    }

    /// The pool's next usable backend that is not in `tried`, round robin.
    pub fn choose(
        &mut self,
        host: Option<&str>,
        path: &str,
        tried: &[SocketAddr],
    ) -> Result<SocketAddr, NoBackend> {
        let route = self.routes.iter().find(|route| matches(route, host, path)).ok_or(NoBackend::NoRoute)?;
        let pool = self.pools.get_mut(&route.pool).ok_or(NoBackend::NoRoute)?;
        for _ in 0..pool.backends.len() {
            let candidate = pool.backends.get(pool.next % pool.backends.len()).copied();
            pool.next = (pool.next + 1) % pool.backends.len();
            if let Some(backend) =
                candidate.filter(|backend| !self.down.contains(backend) && !tried.contains(backend))
            {
                return Ok(backend);
            }
        }
        Err(NoBackend::NoneUsable)
    }

    /// New connections avoid `backend`, or may use it again.
    pub fn set(&mut self, backend: SocketAddr, up: bool) {
        if up {
            self.down.remove(&backend);
        } else if self.all().any(|known| known == backend) {
            self.down.insert(backend);
        }
    }

    /// `address` is one of the backends.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.all().any(|known| known == address)
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.pools.values().flat_map(|pool| pool.backends.iter().copied())
    }

    /// Every backend once, and whether new connections may use it.
    pub fn states(&self) -> Vec<(SocketAddr, bool)> {
        let all: BTreeSet<SocketAddr> = self.all().collect();
        all.into_iter().map(|backend| (backend, !self.down.contains(&backend))).collect()
    }
}

fn matches(route: &Route, host: Option<&str>, path: &str) -> bool {
    let host_fits =
        route.host.as_deref().is_none_or(|wanted| host.is_some_and(|host| host.eq_ignore_ascii_case(wanted)));
    host_fits && route.path_prefix.as_deref().is_none_or(|prefix| has_prefix(path, prefix))
}

/// `/a` covers `/a` and `/a/b`, not `/ab`.
fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_segments() {
        for (path, prefix, fits) in [
            ("/a/b", "/a", true),
            ("/a", "/a", true),
            ("/ab", "/a", false),
            ("/ab", "/", true),
            ("/", "/a", false),
        ] {
            assert_eq!(has_prefix(path, prefix), fits, "{path} under {prefix}");
        }
    }
}
