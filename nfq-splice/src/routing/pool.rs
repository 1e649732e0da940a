//! One pool: which of its usable backends gets the next connection, in proportion to their weights.

use std::net::{IpAddr, SocketAddr};

use cluster::config::{self, Balance, Cluster};
use http1::RequestHead;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::NoBackend;

/// Why a backend gets no new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It failed.
    Down,
    /// The operator wants it so.
    Drained,
    /// Of a pool: some failed, the operator drained the others.
    DownOrDrained,
}

#[derive(Debug, Clone)]
pub(super) struct Pool {
    name: String,
    balance: Balance,
    /// The header or cookie of `balance`.
    on: String,
    members: Vec<Member>,
    counts: Counts,
}

#[derive(Debug, Clone)]
struct Member {
    address: SocketAddr,
    /// What the hash knows it by: the same on every proxy, whatever the order and the others.
    identity: u64,
    weight: u32,
    unusable: Option<Unusable>,
    /// Smooth round robin: by how much it is behind its share; the sum over all is 0.
    behind: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    routed: u64,
    down: u64,
    drained: u64,
    down_or_drained: u64,
    none_answers: u64,
}

impl Pool {
    pub(super) fn new(cluster: &Cluster, name: &str, pool: &config::Pool) -> Self {
        let backends = pool.backends.iter().filter_map(|name| cluster.backends.get(name));
        Self {
            name: name.to_owned(),
            balance: pool.balance,
            on: pool.balance_on.clone().unwrap_or_default(),
            members: backends.map(Member::new).collect(),
            counts: Counts::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes over what an earlier pool of this name counted.
    pub(super) fn go_on_counting(&mut self, earlier: &Self) {
        self.counts = earlier.counts;
    }

    /// Shares are counted anew: each whole cycle from now on is exact.
    pub(super) fn set_states(&mut self, unusable: &dyn Fn(SocketAddr) -> Option<Unusable>) {
        for member in &mut self.members {
            member.unusable = unusable(member.address);
            member.behind = 0;
        }
    }

    pub(super) fn choose(
        &mut self,
        request: Option<&RequestHead>,
        client: IpAddr,
        tried: &[SocketAddr],
    ) -> Result<SocketAddr, NoBackend> {
        let chosen = match self.key(request, client) {
            None => self.next_in_turn(tried),
            Some(key) => self.nearest(key, tried),
        };
        let count = match chosen {
            Some(_) => &mut self.counts.routed,
            None if !tried.is_empty() => &mut self.counts.none_answers,
            None => return Err(NoBackend::NoneUsable(self.count_unusable())),
        };
        *count += 1;
        chosen.ok_or(NoBackend::NoneAnswers)
    }

    fn count_unusable(&mut self) -> Unusable {
        let all = |why| self.members.iter().all(|member| member.unusable == Some(why));
        let (why, count) = match (all(Unusable::Down), all(Unusable::Drained)) {
            (true, _) => (Unusable::Down, &mut self.counts.down),
            (_, true) => (Unusable::Drained, &mut self.counts.drained),
            _ => (Unusable::DownOrDrained, &mut self.counts.down_or_drained),
        };
        *count += 1;
        why
    }

    /// What a consistent hash is taken of; `None`: turn by turn.
    fn key(&self, request: Option<&RequestHead>, client: IpAddr) -> Option<u64> {
        let value = match self.balance {
            Balance::RoundRobin => return None,
            Balance::Client => None,
            Balance::Path => request.map(|request| request.path().as_bytes()),
            Balance::Header => request.and_then(|request| request.field(&self.on)),
            Balance::Cookie => request.and_then(|request| request.cookies(&self.on).next()),
        };
        Some(value.map_or_else(|| of_address(client), xxh3_64))
    }

    /// Smooth weighted round robin: everybody gains its weight, who is furthest behind is chosen and pays for all.
    fn next_in_turn(&mut self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let mut total = 0;
        let mut furthest: Option<&mut Member> = None;
        for member in self.members.iter_mut().filter(|member| member.may_serve(tried)) {
            let weight = i64::from(member.weight);
            member.behind += weight;
            total += weight;
            if furthest.as_ref().is_none_or(|so_far| member.behind > so_far.behind) {
                furthest = Some(member);
            }
        }
        let chosen = furthest?;
        chosen.behind -= total;
        Some(chosen.address)
    }

    /// Weighted rendezvous: the backend with the highest score for this key. Where one is missing its keys go to
    /// others in proportion to their weights, and no other key moves.
    fn nearest(&self, key: u64, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let usable = self.members.iter().filter(|member| member.may_serve(tried));
        let scored = usable.map(|member| (member.score(key), member.address));
        scored.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, address)| address)
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let Counts { routed, down, drained, down_or_drained, none_answers } = self.counts;
        let counts = [
            ("routed", routed),
            ("503_down", down),
            ("503_drained", drained),
            ("503_down_or_drained", down_or_drained),
            ("502_none_answers", none_answers),
        ];
        let seen = counts.into_iter().filter(|(_, count)| *count > 0);
        seen.map(|(what, count)| (format!("pool_{}_{what}", self.name), count))
    }
}

impl Member {
    fn new(backend: &config::Backend) -> Self {
        let address = backend.address;
        let identity = xxh3_64_with_seed(&address.port().to_be_bytes(), of_address(address.ip()));
        Self { address, identity, weight: backend.weight, unusable: None, behind: 0 }
    }

    fn may_serve(&self, tried: &[SocketAddr]) -> bool {
        self.unusable.is_none() && !tried.contains(&self.address)
    }

    /// `weight / −ln u`, u evenly between 0 and 1: the greatest of these is each one's in proportion to its weight.
    fn score(&self, key: u64) -> f64 {
        let hash = xxh3_64_with_seed(&self.identity.to_be_bytes(), key);
        // 53 bits are what a double holds; never 0 or 1.
        let even = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(self.weight) / -even.ln()
    }
}

fn of_address(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => xxh3_64(&ip.octets()),
        IpAddr::V6(ip) => xxh3_64(&ip.octets()),
    }
}
