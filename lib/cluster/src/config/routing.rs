//! `[[route]]`, `[pool.NAME]`, `[backend.NAME]`: which backend gets a request.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `[[route]]`: which requests go to a pool. All that is named must match; what is absent matches any request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Host without port, compared without case. `*.example.com`: every host that ends so, but not `example.com`.
    pub host: Option<String>,
    /// Prefix of the path, at a segment boundary.
    pub path_prefix: Option<String>,
    /// Methods, upper case; one of them.
    pub method: Option<Vec<String>>,
    /// Conditions on header fields, all of them.
    #[serde(default, rename = "header")]
    pub headers: Vec<HeaderMatch>,
    /// Conditions on cookies, all of them.
    #[serde(default, rename = "cookie")]
    pub cookies: Vec<CookieMatch>,
    /// A key of `[pool]`.
    pub pool: String,
}

/// `[[route.header]]`: holds if one of the fields called so has the value. Without `value` and `prefix`: if there is one.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// The field's name, compared without case.
    pub name: String,
    /// Its whole value, byte for byte.
    pub value: Option<String>,
    /// The beginning of its value, byte for byte.
    pub prefix: Option<String>,
}

/// `[[route.cookie]]`: holds if one of the cookies called so has the value. Without `value`: if there is one.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CookieMatch {
    /// The cookie's name, with case.
    pub name: String,
    /// Its value as sent, quotes included.
    pub value: Option<String>,
}

/// `[pool.NAME]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Keys of `[backend]`, at least one. The alternate of a backend is another one of its pool.
    pub backends: Vec<String>,
    /// How a backend is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// Name of the header or cookie that `balance` speaks of.
    pub balance_on: Option<String>,
    /// Who has the application's state. Backends of several pools need the same in all of them.
    #[serde(default)]
    pub state: PoolState,
}

/// Where a pool's backends keep what updates have changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// In one place for all of them, or nowhere: an alternate has seen every update (T_A = T_L).
    #[default]
    Shared,
    /// Each for itself: an alternate knows nothing of a connection (T_A = 0), and its updates are replayed there (paper §4.3).
    Separate,
}

/// How a pool's connections are shared among its backends, in proportion to their weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Turn by turn (smooth weighted round robin), each thread of each proxy for itself.
    #[default]
    RoundRobin,
    /// Consistent hash of the client's address, without port.
    Client,
    /// Consistent hash of the path, without query.
    Path,
    /// Consistent hash of the first field called `balance_on`; of the client's address if there is none.
    Header,
    /// Consistent hash of the first cookie called `balance_on`; of the client's address if there is none.
    Cookie,
}

/// `[backend.NAME]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Where its web server listens.
    pub address: SocketAddr,
    /// Its share of new connections, in proportion to the other weights of a pool.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Whether it gets new connections, until the operator says otherwise.
    #[serde(default)]
    pub state: BackendState,
}

/// What the operator wants of a backend. Whether it works is another question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It serves.
    #[default]
    Up,
    /// No new connections; existing ones go on. An alternate in recoveries only where no other is left.
    Drain,
    /// No new connections, and never an alternate; existing ones go on until somebody ends them.
    Maintenance,
}

impl Backend {
    /// With weight 1, serving.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, weight: default_weight(), state: BackendState::Up }
    }
}

impl BackendState {
    /// As in configuration and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }

    /// From [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Up, Self::Drain, Self::Maintenance].into_iter().find(|state| state.name() == name)
    }
}

fn default_weight() -> u32 {
    1
}

/// Whether `host` is `wanted`, or ends as `*.wanted` says. Also whether a pattern covers another one.
pub fn host_fits(wanted: &str, host: &str) -> bool {
    let Some(suffix) = wanted.strip_prefix('*') else { return wanted.eq_ignore_ascii_case(host) };
    let end = host.len().checked_sub(suffix.len()).filter(|label| *label > 0);
    end.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// Whether `path` is `prefix` or goes on at a segment boundary: `/a` covers `/a`, `/a/` and `/a/b`, not `/ab`.
pub fn path_fits(prefix: &str, path: &str) -> bool {
    let at_boundary = |rest: &str| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/');
    path.strip_prefix(prefix).is_some_and(at_boundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_fit_with_and_without_star() {
        for (wanted, host, fits) in [
            ("a.example", "A.Example", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "a.b.EXAMPLE", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "aexample", false),
            ("*.example", "*.example", true),
            ("*.example", "*.a.example", true),
            ("*.example", "\u{e9}example", false),
        ] {
            assert_eq!(host_fits(wanted, host), fits, "{host} for {wanted}");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        for (path, prefix, fits) in [
            ("/a/b", "/a", true),
            ("/a", "/a", true),
            ("/ab", "/a", false),
            ("/ab", "/", true),
            ("/", "/a", false),
        ] {
            assert_eq!(path_fits(prefix, path), fits, "{path} under {prefix}");
        }
    }
}
