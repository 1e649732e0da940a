//! Each kind of mistake in `cluster.toml` is refused, by file, key and remedy.

use std::net::SocketAddr;

use cluster::config::{Cluster, ConfigError, Problem};
use proptest::prelude::*;

const GOOD: &str = include_str!("good.toml");
const FILE: &str = "cluster.toml";

fn problems(text: &str) -> Vec<Problem> {
    match Cluster::parse(text, FILE) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems,
    }
}

/// The good configuration with one piece of text replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} is not there exactly once");
    GOOD.replace(from, to)
}

/// The good configuration without its section `header`.
fn without(header: &str) -> String {
    let start = GOOD.find(header).unwrap_or_else(|| panic!("{header} is not there"));
    let rest = &GOOD[start + 1..];
    let end = rest.find("\n[").map_or(GOOD.len(), |end| start + 2 + end);
    [&GOOD[..start], &GOOD[end..]].concat()
}

#[test]
fn the_good_one_is_good() {
    let cluster = Cluster::parse(GOOD, FILE).unwrap();
    assert_eq!(cluster.backends.len(), 3);
    assert_eq!(cluster.splice.window_scale, 7);
    assert_eq!(cluster.tags.len(), 2);
}

/// `(from, to, key, part of what, part of remedy)`
type Mistake = (&'static str, &'static str, &'static str, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    // Keys.
    ("mss = 1400", "mms = 1400", "splice.mms", "not a known key", "did you mean `mss`"),
    ("[detector]", "[detectors]", "detectors", "not a known key", "did you mean `detector`"),
    (
        "pool = \"images\"",
        "pool = \"images\"\npath = \"/x\"",
        "route[0].path",
        "not a known key",
        "known here are",
    ),
    (
        "[backend.b1]",
        "[backend.b1]\nweigth = 3",
        "backend.b1.weigth",
        "not a known key",
        "did you mean `weight`",
    ),
    ("name = \"shop-1\"", "", "cluster.name", "is missing", "add name"),
    ("address = \"203.0.113.80:80\"", "", "service.address", "is missing", "add address"),
    ("control = \"10.0.1.1:7070\"", "", "logger.l1.control", "is missing", "add control"),
    ("pool = \"web\"", "", "route[1].pool", "is missing", "add pool"),
    // Types.
    ("mss = 1400", "mss = \"1400\"", "splice.mss", "is \"1400\"", "whole number from 536 to 65495"),
    ("mss = 1400", "mss = 1400.5", "splice.mss", "fraction", "whole number"),
    ("deterministic = true", "deterministic = 1", "tag[0].deterministic", "is 1", "true or false"),
    ("path = \"userspace\"", "path = \"user\"", "splice.path", "is \"user\"", "kernel"),
    ("backends = [\"b1\", \"b2\"]", "backends = \"b1\"", "pool.web.backends", "is \"b1\"", "list of texts"),
    ("backends = [\"b1\", \"b2\"]", "backends = [\"b1\", 2]", "pool.web.backends[1]", "is 2", "in quotes"),
    (
        "[proxy.p2]\naddress = \"10.0.1.3\"",
        "[proxy]\np2 = \"10.0.1.3\"",
        "proxy.p2",
        "is \"10.0.1.3\"",
        "[proxy.p2]",
    ),
    ("[[route]]\npool = \"web\"", "[splice.x]", "splice.x", "not a known key", "known here are"),
    ("10.0.2.11:80", "10.0.2.11", "backend.b1.address", "is \"10.0.2.11\"", "address and port"),
    ("\"10.0.1.2\"", "\"10.0.1.2:80\"", "proxy.p1.address", "is \"10.0.1.2:80\"", "write an address"),
    ("\"10.0.1.2\"", "\"proxy-1\"", "proxy.p1.address", "is \"proxy-1\"", "write an address"),
    // Names.
    ("name = \"shop-1\"", "name = \"Shop\"", "cluster.name", "is \"Shop\"", "a-z, 0-9 and -"),
    ("name = \"shop-1\"", "name = \"\"", "cluster.name", "is \"\"", "1 to 32"),
    ("[logger.l1]", "[logger.\"../x\"]", "logger.../x", "not a usable name", "letters, digits"),
    // References.
    (
        "[\"b2\", \"b3\"]",
        "[\"b2\", \"b4\"]",
        "pool.images.backends[1]",
        "backend `b4` of pool `images` is not defined",
        "defined are b1, b2, b3",
    ),
    ("pool = \"web\"", "pool = \"wbe\"", "route[1].pool", "pool `wbe` is not defined", "did you mean `web`"),
    ("[\"b1\", \"b2\"]", "[]", "pool.web.backends", "is empty", "at least one backend"),
    ("[\"b1\", \"b2\"]", "[\"b1\", \"b1\"]", "pool.web.backends[1]", "twice", "remove one"),
    // Routes.
    (
        "path_prefix = \"/thumbs\"",
        "path_prefix = \"thumbs\"",
        "route[0].path_prefix",
        "not a path",
        "like \"/shop\"",
    ),
    (
        "path_prefix = \"/thumbs\"",
        "path_prefix = \"/a?b\"",
        "route[0].path_prefix",
        "not a path",
        "without query",
    ),
    (
        "[[route]]\nhost = \"img.example.org\"\npath_prefix = \"/thumbs\"",
        "[[route]]\npool = \"web\"\n[[route]]\nhost = \"img.example.org\"\npath_prefix = \"/thumbs\"",
        "route[1]",
        "never reached: route[0]",
        "move it before",
    ),
    (
        "host = \"img.example.org\"\npath_prefix = \"/thumbs\"",
        "host = \"a:80\"",
        "route[0].host",
        "not a host",
        "without port",
    ),
    (
        "host = \"img.example.org\"\npath_prefix = \"/thumbs\"",
        "host = \"img.*.org\"",
        "route[0].host",
        "not a host",
        "without port",
    ),
    ("[\"GET\", \"POST\"]", "[\"get\"]", "route[0].method[0]", "not a method", "write \"GET\""),
    ("[\"GET\", \"POST\"]", "[]", "route[0].method", "no request matches", "leave it out"),
    ("[\"GET\", \"POST\"]", "\"GET\"", "route[0].method", "is \"GET\"", "list of texts"),
    (
        "name = \"X-Canary\"",
        "name = \"X Canary\"",
        "route[0].header[1].name",
        "not a field name",
        "without colon",
    ),
    (
        "name = \"X-Canary\"",
        "nam = \"X-Canary\"",
        "route[0].header[1].nam",
        "not a known key",
        "did you mean `name`",
    ),
    (
        "value = \"yes\"",
        "value = \"yes\"\nprefix = \"y\"",
        "route[0].header[1]",
        "both value and prefix",
        "keep one",
    ),
    ("value = \"yes\"", "value = \" yes\"", "route[0].header[1].value", "no field has", "spaces around"),
    (
        "value = \"yes\"",
        "value = \"a\\nb\"",
        "route[0].header[1].value",
        "no field has",
        "control characters",
    ),
    ("prefix = \"image/\"", "prefix = \"\"", "route[0].header[0].prefix", "is empty", "leave it out"),
    ("prefix = \"image/\"", "prefix = \" i\"", "route[0].header[0].prefix", "begins so", "spaces before"),
    (
        "name = \"session\"",
        "name = \"a=b\"",
        "route[0].cookie[0].name",
        "not a cookie's name",
        "like \"session\"",
    ),
    ("value = \"beta\"", "value = \"a; b\"", "route[0].cookie[0].value", "no cookie has", "as it is sent"),
    (
        "[[route.cookie]]\nname = \"session\"\nvalue = \"beta\"",
        "[route.cookie]\nname = \"session\"",
        "route[0].cookie",
        "is a table",
        "[[route.cookie]]",
    ),
    // Pools and backends.
    ("balance = \"header\"", "balance = \"hash\"", "pool.images.balance", "is \"hash\"", "round-robin"),
    (
        "balance = \"header\"",
        "balance = \"path\"",
        "pool.images.balance_on",
        "only headers and cookies",
        "remove it",
    ),
    ("balance_on = \"X-User\"", "", "pool.images.balance_on", "is missing", "X-User"),
    ("balance_on = \"X-User\"", "balance_on = \"X:\"", "pool.images.balance_on", "not a name", "X-User"),
    ("weight = 3", "weight = 0", "backend.b3.weight", "is 0", "1 to 1000"),
    ("weight = 3", "weight = 1001", "backend.b3.weight", "is 1001", "1 to 1000"),
    ("state = \"drain\"", "state = \"drained\"", "backend.b3.state", "is \"drained\"", "maintenance"),
    // Addresses.
    (
        "10.0.2.12:80",
        "10.0.2.11:80",
        "backend.b2.address",
        "also the address of backend `b1`",
        "its own address",
    ),
    ("10.0.2.12:80", "10.0.2.12:0", "backend.b2.address", "port 0", "1 to 65535"),
    ("10.0.2.12:80", "0.0.0.0:80", "backend.b2.address", "unspecified", "one host"),
    ("10.0.2.12:80", "224.0.0.1:80", "backend.b2.address", "multicast", "one host"),
    ("10.0.2.12:80", "255.255.255.255:80", "backend.b2.address", "broadcast", "one host"),
    ("10.0.2.12:80", "203.0.113.80:8080", "backend.b2.address", "service's address", "own address"),
    ("10.0.2.12:80", "[2001:db8::2]:80", "backend.b2.address", "not an IPv4 address", "IPv4 address"),
    ("203.0.113.80:80", "[::ffff:1.2.3.4]:80", "service.address", "IPv6 notation", "one host"),
    ("203.0.113.80:80", "203.0.113.80:0", "service.address", "port 0", "1 to 65535"),
    ("\"10.0.1.2\"", "\"10.0.1.3\"", "proxy.p2.address", "also the address of proxy `p1`", "remove one"),
    ("\"10.0.1.2\"", "\"203.0.113.80\"", "proxy.p1.address", "service's address", "own address"),
    ("10.0.1.1:7070", "0.0.0.0:7070", "logger.l1.control", "unspecified", "one host"),
    ("10.0.1.1:7070", "10.0.1.1:0", "logger.l1.control", "port 0", "1 to 65535"),
    // Limits.
    (
        "ring_bytes = 67108864",
        "ring_bytes = 1000000",
        "logger.l1.ring_bytes",
        "is 1000000",
        "1048576 to 68719476736",
    ),
    (
        "ring_bytes = 67108864",
        "ring_bytes = 3000000",
        "logger.l1.ring_bytes",
        "power of two",
        "write 4194304 or 2097152",
    ),
    ("mss = 1400", "mss = 535", "splice.mss", "is 535", "536 to 65495"),
    ("mss = 1400", "mss = 65496", "splice.mss", "is 65496", "536 to 65495"),
    ("mss = 1400", "mss = 99999999999999999999", "splice.mss", "is 99999999999999999999", "536 to 65495"),
    ("window_scale = 7", "window_scale = 15", "splice.window_scale", "is 15", "0 to 14"),
    ("window_scale = 7", "window_scale = -1", "splice.window_scale", "is -1", "0 to 14"),
    ("half_open = 100", "half_open = 0", "splice.half_open", "is 0", "from 1"),
    (
        "half_open = 100",
        "half_open = 2000",
        "splice.half_open",
        "more than splice.connections",
        "raise splice.connections",
    ),
    ("connections = 1000", "connections = 0", "splice.connections", "is 0", "from 1"),
    (
        "timeout_floor_ms = 200",
        "timeout_floor_ms = 6000",
        "detector.timeout_floor_ms",
        "more than detector.timeout_ceiling_ms",
        "raise the ceiling",
    ),
    ("probe_failures = 3", "probe_failures = 0", "detector.probe_failures", "is 0", "from 1"),
    ("history = 256", "history = 0", "recovery.history", "is 0", "from 1"),
    // Recovery and tags.
    ("\"Server\"", "\"Ser ver\"", "recovery.volatile_headers[1]", "not a field name", "without colon"),
    ("\"Server\"", "\"ETag\"", "recovery.volatile_headers[1]", "must not differ", "remove it"),
    ("[\"GET\", \"HEAD\"]", "[\"GET\", \"head\"]", "tag[0].method[1]", "not a method", "write \"HEAD\""),
    ("[\"GET\", \"HEAD\"]", "[\"G T\"]", "tag[0].method[0]", "not a method", "like \"GET\""),
    ("[\"GET\", \"HEAD\"]", "[]", "tag[0].method", "no request matches", "leave it out"),
    ("path = \"/**\"", "path = \"files\"", "tag[0].path", "not a path pattern", "begin it with /"),
    ("path = \"/**\"", "path = \"/***\"", "tag[0].path", "not a path pattern", "** across segments"),
    ("'\\.png$'", "'('", "tag[0].path_regex", "not a regular expression", "correct it"),
    (
        "prefix = \"2\"",
        "prefix = \"2\", value = \"3\"",
        "tag[0].query[1]",
        "both value and prefix",
        "keep one",
    ),
    ("\"X-Plain\"", "\"X Plain\"", "tag[0].header[1].name", "not a field name", "without colon"),
    ("[\"200\", ", "[\"20\", ", "tag[0].status[0]", "not a status", "\"4xx\""),
    ("[\"image/*\"]", "[\"image\"]", "tag[0].content_type[0]", "not a media type", "image/*"),
    ("\"Expires\"", "\"etag\"", "tag[0].volatile_headers[1]", "must not differ", "remove it"),
    (
        "timeout_floor_ms = 300",
        "timeout_floor_ms = 3001",
        "tag[0].timeout_floor_ms",
        "more than",
        "raise the ceiling",
    ),
    ("\"static-files\"", "\"static-file\"", "tag[1].include", "no rules are called", "did you mean"),
    ("\"static-files\"", "\"static-files\"\nread_only = true", "tag[1]", "beside other keys", "of their own"),
    // Protocols.
    ("protocol = \"http\"", "protocol = \"ftp\"", "service.protocol", "is \"ftp\"", "write one of"),
    ("[\"\\n\", \";\"]", "[\"\\r\\n\"]", "service.lines.request_end[0]", "not one ASCII", "end in"),
    ("[\"\\n\", \";\"]", "[]", "service.lines.request_end", "is empty", "name what ends"),
    ("\"\\n$ \"", "\"\"", "service.lines.response_end", "has 0 bytes", "1 to 64"),
    ("length_bytes = 2", "length_bytes = 9", "service.records.length_bytes", "is 9", "from 1 to 8"),
    // Not TOML.
    ("[splice]", "[splice", "", "not TOML", "correct the line"),
    ("mss = 1400", "mss = 1400\nmss = 1401", "", "not TOML", "correct the line"),
];

#[test]
fn each_mistake_is_named_with_its_remedy() {
    for (from, to, key, what, remedy) in MISTAKES {
        let found = problems(&with(from, to));
        let hit = found.iter().find(|p| p.key == *key && p.what.contains(what) && p.remedy.contains(remedy));
        assert!(
            hit.is_some_and(|p| p.place.is_some()),
            "{to:?}: expected {key}: {what}: {remedy}\nfound {found:#?}"
        );
    }
}

#[test]
fn one_mistake_gives_one_message() {
    // Those that are two mistakes in fact: the misspelt key is also missing, the entry is also too few.
    for (from, to, key, ..) in MISTAKES {
        let found = problems(&with(from, to));
        let several = to.is_empty()
            || to.contains("mms")
            || to.contains("nam =")
            || to.contains("web")
            || key.is_empty();
        assert!(found.len() == 1 || several, "{to:?}: {found:#?}");
    }
}

#[test]
fn sections_that_must_be_there() {
    for (header, key, what) in [
        ("[cluster]", "cluster", "is missing"),
        ("[service]", "service", "is missing"),
        ("[backend.b1]", "pool.web.backends[0]", "backend `b1` of pool `web` is not defined"),
        ("[pool.images]", "route[0].pool", "pool `images` is not defined"),
    ] {
        let found = problems(&without(header));
        assert!(found.iter().any(|p| p.key == key && p.what.contains(what)), "{header}: {found:#?}");
    }
}

#[test]
fn an_empty_file_says_what_to_begin_with() {
    let keys: Vec<_> = problems("").into_iter().map(|p| p.key).collect();
    assert_eq!(keys, ["cluster", "service", "route", "pool", "backend"]);
}

#[test]
fn all_mistakes_of_a_file_are_listed_in_its_order() {
    let text = GOOD
        .replace("shop-1", "SHOP")
        .replace("mss = 1400", "mss = 1\nmsss = 2")
        .replace("10.0.2.12:80", "10.0.2.11:0")
        .replace("\"b3\"]", "\"b9\"]")
        .replace("floor_ms = 200", "floor_ms = 9000")
        .replace("\"HEAD\"", "\"head\"");
    let found = problems(&text);
    let keys: Vec<_> = found.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "cluster.name",
            "pool.images.backends[1]",
            "backend.b2.address",
            "splice.mss",
            "splice.msss",
            "detector.timeout_floor_ms",
            "tag[0].method[1]",
        ]
    );
    assert!(found.is_sorted_by_key(|p| p.place));
}

#[test]
fn a_message_names_file_line_key_and_remedy() {
    let error = Cluster::parse(&with("[\"b1\", \"b2\"]", "[\"b1\", \"zz\"]"), "/etc/resplice/cluster.toml")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/resplice/cluster.toml:34:19: pool.web.backends[1]: backend `zz` of pool `web` is not defined: \
         add [backend.zz] or remove it; defined are b1, b2, b3"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Cluster::load(std::path::Path::new("/nonexistent/cluster.toml")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("/nonexistent/cluster.toml: cannot be read"), "{text}");
    assert!(text.contains("--config"), "{text}");
}

#[test]
fn ipv6_is_accepted_if_all_of_it_is() {
    let text = GOOD
        .replace("203.0.113.80:80", "[2001:db8::80]:80")
        .replace("10.0.2.11:", "[2001:db8::11]:")
        .replace("10.0.2.12:", "[2001:db8::12]:")
        .replace("10.0.2.13:", "[2001:db8::13]:");
    assert_eq!(problems(&text), []);
}

#[test]
fn lookups() {
    let cluster = Cluster::parse(GOOD, FILE).unwrap();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(cluster.backend_name(address("10.0.2.12:80")), Some("b2"));
    assert_eq!(cluster.backend_name(address("10.0.2.12:81")), None);
    assert_eq!(cluster.alternates(address("10.0.2.11:80")), [address("10.0.2.12:80")]);
    assert_eq!(
        cluster.alternates(address("10.0.2.12:80")),
        [address("10.0.2.13:8080"), address("10.0.2.11:80")]
    );
    assert_eq!(cluster.alternates(address("10.9.9.9:80")), []);
    assert_eq!(cluster.find_proxy("p2").unwrap().address, "10.0.1.3".parse::<std::net::IpAddr>().unwrap());
    let error: ConfigError = cluster.find_logger("p2").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("logger.p2") && text.contains("l1") && text.contains("--node"), "{text}");
}

/// Whatever is in the file: no panic, and a refusal always says something.
fn judge(text: &str) {
    if let Err(error) = Cluster::parse(text, FILE) {
        assert!(!error.problems.is_empty(), "{text}");
        assert!(error.problems.iter().all(|p| !p.what.is_empty() && !p.remedy.is_empty()), "{error}");
        assert!(
            !error.problems.iter().any(|p| p.key.is_empty() && !p.what.starts_with("not TOML")),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn a_spoilt_file_is_survived(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, "[\\PC\\n]{0,3}"), 1..5),
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.chars());
        }
        judge(&text.into_iter().collect::<String>());
    }

    #[test]
    fn shuffled_values_are_survived(
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![
            "1", "-1", "true", "\"\"", "\"x\"", "[]", "[1]", "[[]]", "{}", "{ a = 1 }", "1.5", "0x10", "inf", "1979-05-27",
            "\"10.0.2.11:80\"", "\"[::1]:80\"", "[\"b1\", \"b1\"]", "18446744073709551616", "{ b1 = { address = 3 } }",
        ])), 1..6),
    ) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        for (at, value) in edits {
            let at = at.index(lines.len());
            let line = lines[at].clone();
            if let Some((key, _)) = line.split_once(" = ") { lines[at] = format!("{key} = {value}"); }
        }
        judge(&lines.join("\n"));
    }

    #[test]
    fn sections_of_another_type_are_survived(value in "(1|\\[\\]|\\[1\\]|true|\"x\"|\\{\\}|\\{ a = 1 \\}|\\[\\{\\}\\])", key in "(cluster|service|route|pool|backend|proxy|logger|splice|detector|recovery|tag|other)") {
        judge(&format!("{key} = {value}"));
    }
}
