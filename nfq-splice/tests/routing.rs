//! Routes against a naive oracle; shares of weights exactly over a cycle; a consistent hash that moves no more than it must.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cluster::config::{BackendState, Cluster};
use http1::RequestHead;
use nfq_splice::routing::{NoBackend, Routing, Unusable};
use proptest::prelude::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn request(text: &str) -> RequestHead {
    http1::parse_request(text.as_bytes(), 8192).unwrap().unwrap()
}

fn get(path: &str) -> RequestHead {
    request(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

fn backend(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8], 80))
}

/// One pool of backends with these weights, numbered from 1.
fn pool(balance: &str, weights: &[u32]) -> Cluster {
    let numbered = || weights.iter().enumerate().map(|(at, weight)| (at + 1, weight));
    let names: Vec<_> = numbered().map(|(number, _)| format!("\"b{number}\"")).collect();
    let tables: Vec<_> = numbered()
        .map(|(n, weight)| format!("[backend.b{n}]\naddress = \"{}\"\nweight = {weight}\n", backend(n)))
        .collect();
    cluster(&format!(
        "[[route]]\npool = \"p\"\n[pool.p]\nbackends = [{}]\n{balance}\n{}",
        names.join(","),
        tables.concat()
    ))
}

fn cluster(rest: &str) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"c\"\n[service]\naddress = \"203.0.113.1:80\"\n[proxy.p]\naddress = \"10.9.9.9\"\n{rest}"
    );
    Cluster::parse(&text, "test").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn counted(chosen: impl IntoIterator<Item = SocketAddr>) -> BTreeMap<SocketAddr, u32> {
    let mut counts = BTreeMap::new();
    for backend in chosen {
        *counts.entry(backend).or_default() += 1;
    }
    counts
}

proptest! {
    #[test]
    fn shares_are_exact_over_each_cycle(
        weights in prop::collection::vec(1u32..12, 1..6),
        drained in prop::collection::vec(any::<bool>(), 5),
    ) {
        let mut routing = Routing::new(&pool("", &weights));
        for (at, _) in drained.iter().take(weights.len()).enumerate().filter(|(_, drained)| **drained) {
            let known = routing.order(&format!("b{}", at + 1), BackendState::Drain);
            prop_assert!(known);
        }
        let expected: BTreeMap<_, _> = weights.iter().enumerate()
            .filter(|(at, _)| !drained[*at])
            .map(|(at, weight)| (backend(at + 1), *weight))
            .collect();
        let total: u32 = expected.values().sum();
        for _ in 0..3 {
            let cycle: Vec<_> = (0..total).map(|_| routing.choose(&get("/"), CLIENT, &[]).unwrap()).collect();
            prop_assert_eq!(&counted(cycle), &expected);
        }
        prop_assert_eq!(total == 0, routing.choose(&get("/"), CLIENT, &[]).is_err());
    }

    #[test]
    fn a_missing_backend_moves_only_its_own_keys(
        weights in prop::collection::vec(1u32..5, 2..8),
        missing in any::<prop::sample::Index>(),
        keys in prop::collection::vec("[a-z0-9]{1,12}", 1..60),
    ) {
        let missing = missing.index(weights.len()) + 1;
        let mut routing = Routing::new(&pool("balance = \"path\"", &weights));
        let places = |routing: &mut Routing| -> Vec<_> {
            keys.iter().map(|key| routing.choose(&get(&format!("/{key}")), CLIENT, &[]).unwrap()).collect()
        };
        let before = places(&mut routing);
        routing.set(backend(missing), false);
        let during = places(&mut routing);
        for (before, during) in before.iter().zip(&during) {
            let moved = before != during;
            prop_assert_eq!(moved, *before == backend(missing));
        }
        routing.set(backend(missing), true);
        prop_assert_eq!(&places(&mut routing), &before);

        // The same if the configuration does not name it any more.
        let mut smaller = pool("balance = \"path\"", &weights);
        smaller.pools.get_mut("p").unwrap().backends.retain(|name| *name != format!("b{missing}"));
        smaller.backends.remove(&format!("b{missing}"));
        routing.replace(Routing::new(&smaller), &BTreeSet::new());
        prop_assert_eq!(places(&mut routing), during);
    }

    /// A greater weight only draws keys to its backend.
    #[test]
    fn a_changed_weight_moves_keys_only_there(
        weights in prop::collection::vec(1u32..5, 2..8),
        keys in prop::collection::vec("[a-z0-9]{1,12}", 1..60),
    ) {
        let mut heavier = weights.clone();
        heavier[0] += 3;
        let mut before = Routing::new(&pool("balance = \"path\"", &weights));
        let mut after = Routing::new(&pool("balance = \"path\"", &heavier));
        for key in keys.iter().map(|key| get(&format!("/{key}"))) {
            let (before, after) =
                (before.choose(&key, CLIENT, &[]).unwrap(), after.choose(&key, CLIENT, &[]).unwrap());
            prop_assert!(before == after || after == backend(1));
        }
    }
}

#[test]
fn a_hash_respects_weights() {
    let mut routing = Routing::new(&pool("balance = \"path\"", &[1, 2, 5]));
    let counts = counted((0..8000).map(|n| routing.choose(&get(&format!("/{n}")), CLIENT, &[]).unwrap()));
    for (number, share) in [(1, 1000), (2, 2000), (3, 5000)] {
        let count = counts[&backend(number)];
        assert!(count.abs_diff(share) < 150, "{count} of {share}");
    }
}

#[test]
fn what_is_hashed() {
    type Asks = fn(&str) -> RequestHead;
    let cases: [(&str, Asks); 3] = [
        ("path", |key| get(&format!("/{key}?{}", key.len()))),
        ("header\"\nbalance_on = \"X-User", |key| {
            request(&format!("GET / HTTP/1.1\r\nHost: a\r\nx-user: {key}\r\n\r\n"))
        }),
        ("cookie\"\nbalance_on = \"sid", |key| {
            request(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=1; sid={key}\r\n\r\n"))
        }),
    ];
    let clients = || (0..100).map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)));
    for (balance, of) in cases {
        let mut routing = Routing::new(&pool(&format!("balance = \"{balance}\""), &[1, 1, 1]));
        let places: BTreeSet<_> =
            (0..50).map(|key| routing.choose(&of(&key.to_string()), CLIENT, &[]).unwrap()).collect();
        assert_eq!(places.len(), 3, "{balance}: different keys");
        let places: BTreeSet<_> =
            clients().map(|client| routing.choose(&of("same"), client, &[]).unwrap()).collect();
        assert_eq!(places.len(), 1, "{balance}: different clients, same key");
        if !balance.starts_with("path") {
            let places: BTreeSet<_> =
                clients().map(|client| routing.choose(&get("/"), client, &[]).unwrap()).collect();
            assert_eq!(places.len(), 3, "{balance}: without it, the client's address");
        }
    }
    let mut routing = Routing::new(&pool("balance = \"client\"", &[1, 1, 1]));
    let places: BTreeSet<_> =
        clients().map(|client| routing.choose(&get("/"), client, &[]).unwrap()).collect();
    assert_eq!(places.len(), 3);
    assert_eq!(routing.choose(&get("/a"), CLIENT, &[]), routing.choose(&get("/b"), CLIENT, &[]));
}

#[test]
fn what_was_tried_is_not_chosen_again() {
    for balance in ["", "balance = \"path\""] {
        let mut routing = Routing::new(&pool(balance, &[1, 2, 3]));
        let mut tried = Vec::new();
        for _ in 0..3 {
            let next = routing.choose(&get("/"), CLIENT, &tried).unwrap();
            assert!(!tried.contains(&next));
            tried.push(next);
        }
        assert_eq!(routing.choose(&get("/"), CLIENT, &tried), Err(NoBackend::NoneAnswers));
    }
}

fn counters(routing: &Routing) -> BTreeMap<String, u64> {
    routing.counters().collect()
}

#[test]
fn why_no_backend_is_usable_is_said_and_counted() {
    let mut routing = Routing::new(&pool("", &[1, 1]));
    let mut choose = |expected, counter: &str, change: &mut dyn FnMut(&mut Routing)| {
        change(&mut routing);
        assert_eq!(routing.choose(&get("/"), CLIENT, &[]), Err(NoBackend::NoneUsable(expected)));
        assert_eq!(counters(&routing).get(counter), Some(&1), "{counter}");
    };
    choose(Unusable::Drained, "pool_p_503_drained", &mut |routing| {
        assert!(routing.order("b1", BackendState::Drain));
        assert!(routing.order("b2", BackendState::Maintenance));
    });
    choose(Unusable::DownOrDrained, "pool_p_503_down_or_drained", &mut |routing| {
        assert!(routing.order("b1", BackendState::Up));
        routing.set(backend(1), false);
    });
    choose(Unusable::Down, "pool_p_503_down", &mut |routing| {
        assert!(routing.order("b2", BackendState::Up));
        routing.set(backend(2), false);
    });
    routing.set(backend(2), true);
    assert_eq!(routing.choose(&get("/"), CLIENT, &[]), Ok(backend(2)));
    assert_eq!(counters(&routing)["pool_p_routed"], 1);
    assert!(!routing.order("b9", BackendState::Drain));
}

#[test]
fn states_survive_a_reload() {
    let cluster = pool("", &[1, 1, 1]);
    let mut routing = Routing::new(&cluster);
    routing.set(backend(1), false);
    assert!(routing.order("b2", BackendState::Drain));
    routing.replace(Routing::new(&cluster), &BTreeSet::new());
    for _ in 0..4 {
        assert_eq!(routing.choose(&get("/"), CLIENT, &[]), Ok(backend(3)));
    }
    assert_eq!(counters(&routing)["pool_p_routed"], 4);
    routing.replace(Routing::new(&cluster), &BTreeSet::new());
    assert_eq!(counters(&routing)["pool_p_routed"], 4);
    // What the operator says goes before the configuration, also when he says up.
    let mut drained = cluster.clone();
    for backend in drained.backends.values_mut() {
        backend.state = BackendState::Maintenance;
    }
    routing.replace(Routing::new(&drained), &BTreeSet::new());
    assert_eq!(routing.choose(&get("/"), CLIENT, &[]), Err(NoBackend::NoneUsable(Unusable::Drained)));
    assert!(routing.order("b2", BackendState::Up));
    routing.replace(Routing::new(&drained), &BTreeSet::new());
    assert_eq!(routing.choose(&get("/"), CLIENT, &[]), Ok(backend(2)));
    assert_eq!(routing.orders().len(), 1);
}

#[test]
fn a_removed_backend_is_known_while_it_has_connections() {
    let mut routing = Routing::new(&pool("", &[1, 1]));
    let smaller = pool("", &[1]);
    routing.replace(Routing::new(&smaller), &BTreeSet::from([backend(2)]));
    assert!(routing.knows(backend(2)));
    assert_eq!(routing.former().collect::<Vec<_>>(), [backend(2)]);
    let states = routing.states(&BTreeMap::from([(backend(2), 3)]));
    assert_eq!((states[1].name.as_deref(), states[1].connections), (None, 3));
    for _ in 0..3 {
        assert_eq!(routing.choose(&get("/"), CLIENT, &[]), Ok(backend(1)));
    }
    routing.replace(Routing::new(&smaller), &BTreeSet::new());
    assert!(!routing.knows(backend(2)));
    // Found in the kernel by a daemon that never knew it.
    routing.remember(backend(7));
    assert!(routing.knows(backend(7)));
}

/// A route's conditions, each drawn from few values so that they often meet.
#[derive(Debug, Clone)]
struct Conditions {
    host: Option<&'static str>,
    prefix: Option<&'static str>,
    methods: Option<Vec<&'static str>>,
    header: Option<(&'static str, Option<&'static str>)>,
    cookie: Option<(&'static str, Option<&'static str>)>,
}

#[derive(Debug, Clone)]
struct Asked {
    method: &'static str,
    host: &'static str,
    path: &'static str,
    accepts: Vec<&'static str>,
    cookies: Vec<&'static str>,
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let of = prop::sample::select::<&'static str>;
    (
        prop::option::of(of(vec!["a.org", "b.a.org", "*.a.org", "*.org"])),
        prop::option::of(of(vec!["/", "/x", "/x/", "/x/y"])),
        prop::option::of(prop::collection::vec(of(vec!["GET", "POST", "HEAD"]), 1..3)),
        prop::option::of((
            of(vec!["value", "prefix"]),
            prop::option::of(of(vec!["text", "text/html", "*/*"])),
        )),
        prop::option::of((Just("c"), prop::option::of(of(vec!["1", "2", "\"1\""])))),
    )
        .prop_map(|(host, prefix, methods, header, cookie)| Conditions {
            host,
            prefix,
            methods,
            header,
            cookie,
        })
}

fn asked() -> impl Strategy<Value = Asked> {
    let of = prop::sample::select::<&'static str>;
    (
        of(vec!["GET", "POST", "HEAD", "PUT"]),
        of(vec!["a.org", "B.a.org:80", "c.b.A.org", "org", "x.net"]),
        of(vec!["/", "/x", "/x/", "/xy", "/x/y", "/x/yz?/x/y"]),
        prop::collection::vec(of(vec!["text", "text/html", "text/plain", "*/*", "TEXT"]), 0..3),
        prop::collection::vec(of(vec!["c=1", "c=2", "c=\"1\"", "C=1", "cc=1", "c", "c=", "d=1;c=2"]), 0..3),
    )
        .prop_map(|(method, host, path, accepts, cookies)| Asked {
            method,
            host,
            path,
            accepts,
            cookies,
        })
}

impl Conditions {
    fn text(&self, number: usize) -> String {
        let mut text = "[[route]]\n".to_owned();
        text.extend(self.host.map(|host| format!("host = {host:?}\n")));
        text.extend(self.prefix.map(|prefix| format!("path_prefix = {prefix:?}\n")));
        text.extend(self.methods.as_ref().map(|methods| format!("method = {methods:?}\n")));
        text.extend([format!("pool = \"p{number}\"\n")]);
        text.extend(self.header.map(|(kind, value)| {
            let value = value.map(|value| format!("{kind} = {value:?}\n")).unwrap_or_default();
            format!("[[route.header]]\nname = \"accept\"\n{value}")
        }));
        text.extend(self.cookie.map(|(name, value)| {
            let value = value.map(|value| format!("value = {value:?}\n")).unwrap_or_default();
            format!("[[route.cookie]]\nname = {name:?}\n{value}")
        }));
        text
    }

    /// The definition, in words as plain as possible.
    fn holds(&self, asked: &Asked) -> bool {
        let host = asked.host.split(':').next().unwrap().to_lowercase();
        let path = asked.path.split('?').next().unwrap();
        let sent: Vec<_> = asked.cookies.iter().flat_map(|field| field.split(';')).collect();
        self.host.is_none_or(|wanted| match wanted.strip_prefix("*") {
            Some(end) => host.ends_with(end) && host != end,
            None => host == wanted,
        }) && self.prefix.is_none_or(|prefix| {
            path == prefix || path.starts_with(&format!("{}/", prefix.trim_end_matches('/')))
        }) && self.methods.as_ref().is_none_or(|methods| methods.contains(&asked.method))
            && self.header.is_none_or(|(kind, wanted)| {
                asked.accepts.iter().any(|value| match (kind, wanted) {
                    (_, None) => true,
                    ("value", Some(wanted)) => *value == wanted,
                    (_, Some(wanted)) => value.starts_with(wanted),
                })
            })
            && self.cookie.is_none_or(|(name, wanted)| match wanted {
                Some(wanted) => sent.contains(&format!("{name}={wanted}").as_str()),
                None => sent.iter().any(|cookie| cookie.starts_with(&format!("{name}="))),
            })
    }
}

impl Asked {
    fn head(&self) -> RequestHead {
        let Self { method, host, path, .. } = self;
        let fields: String = self
            .accepts
            .iter()
            .map(|value| format!("Accept: {value}\r\n"))
            .chain(self.cookies.iter().map(|cookie| format!("cookie: {cookie}\r\n")))
            .collect();
        request(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))
    }
}

proptest! {
    #[test]
    fn the_first_route_that_matches_decides(
        routes in prop::collection::vec(conditions(), 1..6),
        asked in prop::collection::vec(asked(), 1..12),
    ) {
        let numbered = || routes.iter().enumerate().map(|(at, route)| (at + 1, route));
        let text: String = numbered().map(|(n, route)| route.text(n))
            .chain(numbered().map(|(n, _)| format!("[pool.p{n}]\nbackends = [\"b{n}\"]\n")))
            .chain(numbered().map(|(n, _)| format!("[backend.b{n}]\naddress = \"{}\"\n", backend(n))))
            .collect();
        let head = "[cluster]\nname = \"c\"\n[service]\naddress = \"203.0.113.1:80\"\n";
        // A route that is covered by earlier ones is refused: nothing that it could be asked for may be its own.
        let cluster = match Cluster::parse(&format!("{head}{text}"), "test") {
            Ok(cluster) => cluster,
            Err(error) => {
                for problem in error.problems {
                    prop_assert!(problem.what.contains("never reached"), "{}", problem);
                    let place: usize = problem.key["route[".len()..problem.key.len() - 1].parse().unwrap();
                    for asked in &asked {
                        let first = routes.iter().position(|route| route.holds(asked));
                        prop_assert_ne!(first, Some(place));
                    }
                }
                return Ok(());
            }
        };
        let mut routing = Routing::new(&cluster);
        for asked in &asked {
            let expected = numbered().find(|(_, route)| route.holds(asked)).map(|(n, _)| backend(n));
            let chosen = routing.choose(&asked.head(), CLIENT, &[]);
            prop_assert_eq!(chosen, expected.ok_or(NoBackend::NoRoute), "{:?}", asked);
        }
    }
}
