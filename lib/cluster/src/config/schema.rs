//! The keys of `cluster.toml` and what values they take, as data: so that all mistakes are found in one pass and
//! each gets a remedy. A test keeps it equal to the types.

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

/// What a key's value is.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    Texts,
    Flag,
    /// A whole number within bounds, both included.
    Integer(u64, u64),
    OneOf(&'static [&'static str]),
    /// Address and port.
    Address,
    Ip,
    /// `[NAME]`
    Table(&'static [Key]),
    /// `[KEY.NAME]` for any number of names.
    Named(&'static [Key]),
    /// `[[KEY]]`, any number of times.
    List(&'static [Key]),
}

const fn must(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: true }
}

const fn may(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: false }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const MONTH_S: u64 = 30 * 24 * 3600;

pub(super) const FILE: &[Key] = &[
    must("cluster", Kind::Table(&[must("name", Kind::Text), may("certificates", Kind::Text)])),
    must("service", Kind::Table(SERVICE)),
    may("route", Kind::List(ROUTE)),
    may("pool", Kind::Named(POOL)),
    may("backend", Kind::Named(BACKEND)),
    may("proxy", Kind::Named(&[must("address", Kind::Ip)])),
    may("logger", Kind::Named(LOGGER)),
    may("splice", Kind::Table(SPLICE)),
    may("detector", Kind::Table(DETECTOR)),
    may("recovery", Kind::Table(RECOVERY)),
    may("tag", Kind::List(TAG)),
];

const SERVICE: &[Key] = &[
    must("address", Kind::Address),
    may("protocol", Kind::OneOf(&["http", "lines", "records", "imap", "smtp"])),
    may("lines", Kind::Table(LINES)),
    may("records", Kind::Table(RECORDS)),
];

const LINES: &[Key] =
    &[may("request_end", Kind::Texts), may("response_end", Kind::Text), may("greeting", Kind::Flag)];

const RECORDS: &[Key] = &[
    may("length_bytes", Kind::Integer(1, 8)),
    may("counts_itself", Kind::Flag),
    may("max_bytes", Kind::Integer(1, i64::MAX as u64)),
];

const ROUTE: &[Key] = &[
    may("host", Kind::Text),
    may("path_prefix", Kind::Text),
    may("method", Kind::Texts),
    may("header", Kind::List(HEADER)),
    may("cookie", Kind::List(COOKIE)),
    must("pool", Kind::Text),
];

const COOKIE: &[Key] = &[must("name", Kind::Text), may("value", Kind::Text)];

const HEADER: &[Key] = &[must("name", Kind::Text), may("value", Kind::Text), may("prefix", Kind::Text)];

const POOL: &[Key] = &[
    must("backends", Kind::Texts),
    may("balance", Kind::OneOf(&["round-robin", "client", "path", "header", "cookie"])),
    may("balance_on", Kind::Text),
    may("state", Kind::OneOf(&["shared", "separate"])),
];

const BACKEND: &[Key] = &[
    must("address", Kind::Address),
    may("weight", Kind::Integer(1, 1000)),
    may("state", Kind::OneOf(&["up", "drain", "maintenance"])),
];

const LOGGER: &[Key] = &[must("control", Kind::Address), may("ring_bytes", Kind::Integer(MIB, 64 * GIB))];

const SPLICE: &[Key] = &[
    may("path", Kind::OneOf(&["kernel", "userspace"])),
    may("fast_path", Kind::Flag),
    // Less than IPv4's default (RFC 9293 §3.7.1) serves nobody; more does not fit into an IPv4 packet.
    may("mss", Kind::Integer(536, 65_495)),
    // RFC 7323 §2.3.
    may("window_scale", Kind::Integer(0, 14)),
    may("queues", Kind::Integer(0, 64)),
    may("half_open", Kind::Integer(1, MIB)),
    may("connections", Kind::Integer(1, 16 * MIB)),
    may("request_head_bytes", Kind::Integer(KIB, MIB)),
    may("request_head_timeout_ms", Kind::Integer(10, 10 * MINUTE_MS)),
    // At least the longest head and what may follow it.
    may("setup_bytes", Kind::Integer(2 * MIB, 64 * GIB)),
    may("hold_bytes", Kind::Integer(4 * KIB, 64 * MIB)),
    may("idle_timeout_s", Kind::Integer(10, MONTH_S)),
];

const DETECTOR: &[Key] = &[
    may("probe_after_ms", Kind::Integer(1, MINUTE_MS)),
    may("probe_interval_ms", Kind::Integer(1, MINUTE_MS)),
    may("probe_failures", Kind::Integer(1, 100)),
    may("heartbeat_ms", Kind::Integer(10, HOUR_MS)),
    may("check", Kind::OneOf(&["http", "tcp"])),
    may("check_path", Kind::Text),
    may("check_host", Kind::Text),
    may("check_status_below", Kind::Integer(100, 600)),
    may("heartbeat_successes", Kind::Integer(1, 1000)),
    may("heartbeat_successes_most", Kind::Integer(1, 1000)),
    may("timeout_floor_ms", Kind::Integer(1, 10 * MINUTE_MS)),
    may("timeout_ceiling_ms", Kind::Integer(1, 10 * MINUTE_MS)),
    may("timeout_longest_ms", Kind::Integer(1, 24 * HOUR_MS)),
    may("kinds", Kind::Integer(1, MIB)),
];

const RECOVERY: &[Key] = &[
    may("volatile_headers", Kind::Texts),
    may("range_from_bytes", Kind::Integer(0, i64::MAX as u64)),
    // A report carries them in one control message.
    may("request_bytes", Kind::Integer(0, 32 * MIB)),
    // Half the sequence space tells before from after.
    may("upload_bytes", Kind::Integer(0, GIB)),
    may("replay_transactions", Kind::Integer(0, 65_535)),
    // In the same message.
    may("replay_bytes", Kind::Integer(0, 16 * MIB)),
    may("kept_bytes", Kind::Integer(64 * KIB, 64 * GIB)),
    may("timeout_ms", Kind::Integer(10, 10 * MINUTE_MS)),
    may("give_up", Kind::OneOf(&["reset", "answer"])),
    may("alternate_limit", Kind::Integer(1, 65_536)),
    may("history", Kind::Integer(1, 10_000)),
];

const TAG: &[Key] = &[
    may("include", Kind::Text),
    may("method", Kind::Texts),
    may("host", Kind::Text),
    may("path", Kind::Text),
    may("path_regex", Kind::Text),
    may("query", Kind::List(HEADER)),
    may("header", Kind::List(HEADER)),
    may("cookie", Kind::List(COOKIE)),
    may("status", Kind::Texts),
    may("content_type", Kind::Texts),
    may("deterministic", Kind::Flag),
    may("read_only", Kind::Flag),
    may("idempotent", Kind::Flag),
    may("large_file", Kind::Flag),
    may("volatile_headers", Kind::Texts),
    may("timeout_floor_ms", Kind::Integer(1, 10 * MINUTE_MS)),
    may("timeout_ceiling_ms", Kind::Integer(1, 10 * MINUTE_MS)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cluster;
    use toml::Value;

    /// One table with the keys of all, as they are where they come first: some keys exclude each other.
    fn together<'v>(tables: impl IntoIterator<Item = &'v Value>) -> Value {
        let mut all = toml::Table::new();
        for (key, value) in tables.into_iter().flat_map(|table| table.as_table().unwrap()) {
            all.entry(key).or_insert_with(|| value.clone());
        }
        Value::Table(all)
    }

    fn assert_same(keys: &[Key], value: &Value, path: &str) {
        let table = value.as_table().unwrap_or_else(|| panic!("{path} is not a table"));
        let mut known: Vec<_> = keys.iter().map(|key| key.name).collect();
        known.sort_unstable();
        let mut present: Vec<_> = table.keys().map(String::as_str).collect();
        present.sort_unstable();
        assert_eq!(known, present, "{path}");
        for key in keys {
            let (value, path) = (&table[key.name], format!("{path}.{}", key.name));
            match key.kind {
                Kind::Table(keys) => assert_same(keys, value, &path),
                Kind::Named(keys) => assert_same(keys, &together(value.as_table().unwrap().values()), &path),
                Kind::List(keys) => assert_same(keys, &together(value.as_array().unwrap()), &path),
                Kind::Integer(min, max) => {
                    let number = value.as_integer().unwrap() as u64;
                    assert!((min..=max).contains(&number), "{path}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_keys_are_those_of_the_types() {
        let full = Cluster::parse(include_str!("../../tests/good.toml"), "good.toml").unwrap();
        assert_same(FILE, &Value::try_from(full).unwrap(), "");
    }

    #[test]
    fn defaults_are_within_bounds() {
        let mut full = Cluster::parse(include_str!("../../tests/good.toml"), "good.toml").unwrap();
        (full.splice, full.detector, full.recovery) = Default::default();
        assert_same(FILE, &Value::try_from(&full).unwrap(), "");
        Cluster::parse(&toml::to_string(&full).unwrap(), "default").unwrap();
    }
}
