//! Keys and types of values: what TOML itself does not check, all of it in one pass.
//!
//! The outcome is a table that the types certainly accept: what was wrong is reported and replaced, so that the
//! rest can still be checked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::report::{Report, suggest};
use super::schema::{Key, Kind};

/// Checks `table`, which stands at `path`, against `keys`.
pub(super) fn check(report: &mut Report<'_>, table: &DeTable<'_>, keys: &'static [Key], path: &str) -> Table {
    let mut checked = Table::new();
    for (name, value) in table {
        let key_path = child(path, name.get_ref());
        match keys.iter().find(|key| key.name == name.get_ref().as_ref()) {
            Some(key) => {
                report.stands_at(&key_path, value.span());
                checked.insert(key.name.to_owned(), convert(report, value, &key.kind, &key_path));
            }
            None => unknown(report, name, keys, &key_path),
        }
    }
    for key in keys.iter().filter(|key| key.required) {
        if checked.contains_key(key.name) {
            continue;
        }
        let key_path = child(path, key.name);
        report.replace(&key_path, "is missing", format!("add {}", key.example(&key_path)));
        checked.insert(key.name.to_owned(), key.kind.replacement(&key_path));
    }
    checked
}

fn unknown(report: &mut Report<'_>, name: &Spanned<std::borrow::Cow<'_, str>>, keys: &[Key], path: &str) {
    report.stands_at(path, name.span());
    let names = || keys.iter().map(|key| key.name);
    let remedy = match suggest(name.get_ref(), names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("remove it; known here are {}", names().collect::<Vec<_>>().join(", ")),
    };
    report.replace(path, "is not a known key", remedy);
}

fn convert(report: &mut Report<'_>, value: &Spanned<DeValue<'_>>, kind: &'static Kind, path: &str) -> Value {
    match (kind, value.get_ref()) {
        (Kind::Table(keys), DeValue::Table(table)) => Value::Table(check(report, table, keys, path)),
        (Kind::Named(keys), DeValue::Table(table)) => Value::Table(named(report, table, keys, path)),
        (Kind::List(keys), DeValue::Array(entries)) => {
            elements(report, entries, path, |report, entry, path| match entry.get_ref() {
                DeValue::Table(table) => Some(Value::Table(check(report, table, keys, path))),
                _ => refuse(report, path, entry.get_ref(), kind),
            })
        }
        (Kind::Texts, DeValue::Array(entries)) => elements(report, entries, path, |report, entry, path| {
            Some(convert(report, entry, &Kind::Text, path))
        }),
        (kind, given) => match scalar(given, kind) {
            Some(value) => value,
            None => refuse(report, path, given, kind).unwrap_or_else(|| kind.replacement(path)),
        },
    }
}

fn named(report: &mut Report<'_>, table: &DeTable<'_>, keys: &'static [Key], path: &str) -> Table {
    let mut checked = Table::new();
    for (name, value) in table {
        let entry_path = child(path, name.get_ref());
        report.stands_at(&entry_path, name.span());
        let DeValue::Table(entry) = value.get_ref() else {
            let remedy = format!("write it as a table, [{entry_path}]");
            report.replace(&entry_path, format!("is {}", describe(value.get_ref())), remedy);
            continue;
        };
        checked.insert(name.get_ref().to_string(), Value::Table(check(report, entry, keys, &entry_path)));
    }
    checked
}

fn elements<'v, 'i: 'v>(
    report: &mut Report<'_>,
    entries: impl IntoIterator<Item = &'v Spanned<DeValue<'i>>>,
    path: &str,
    each: impl Fn(&mut Report<'_>, &Spanned<DeValue<'_>>, &str) -> Option<Value>,
) -> Value {
    let mut checked = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let entry_path = format!("{path}[{index}]");
        report.stands_at(&entry_path, entry.span());
        checked.extend(each(report, entry, &entry_path));
    }
    Value::Array(checked)
}

fn scalar(given: &DeValue<'_>, kind: &Kind) -> Option<Value> {
    match (kind, given) {
        (Kind::Flag, DeValue::Boolean(flag)) => Some(Value::Boolean(*flag)),
        (Kind::Integer(min, max), DeValue::Integer(number)) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            let fits = u64::try_from(number).is_ok_and(|number| (*min..=*max).contains(&number));
            fits.then_some(Value::Integer(number))
        }
        (kind, DeValue::String(text)) => accepts(kind, text).then(|| Value::String(text.to_string())),
        _ => None,
    }
}

fn accepts(kind: &Kind, text: &str) -> bool {
    match kind {
        Kind::Text => true,
        Kind::OneOf(choices) => choices.contains(&text),
        Kind::Address => text.parse::<SocketAddr>().is_ok(),
        Kind::Ip => text.parse::<IpAddr>().is_ok(),
        _ => false,
    }
}

fn refuse(report: &mut Report<'_>, path: &str, given: &DeValue<'_>, kind: &Kind) -> Option<Value> {
    report.replace(path, format!("is {}", describe(given)), kind.remedy(path));
    None
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Float(_) => "a number with a fraction".to_owned(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

impl Key {
    fn example(&self, path: &str) -> String {
        match &self.kind {
            Kind::Table(_) => format!("[{path}]"),
            Kind::Address => format!("{} = \"10.0.0.1:80\"", self.name),
            Kind::Ip => format!("{} = \"10.0.0.1\"", self.name),
            Kind::Texts => format!("{} = [\"…\"]", self.name),
            _ => format!("{} = \"…\"", self.name),
        }
    }
}

impl Kind {
    fn remedy(&self, path: &str) -> String {
        match self {
            Self::Text => "write a text in quotes".to_owned(),
            Self::Texts => "write a list of texts, like [\"a\", \"b\"]".to_owned(),
            Self::Flag => "write true or false".to_owned(),
            Self::Integer(min, max) => format!("write a whole number from {min} to {max}"),
            Self::OneOf(choices) => format!("write one of {choices:?}"),
            Self::Address => {
                "write address and port, like \"10.0.0.1:80\" or \"[2001:db8::1]:80\"".to_owned()
            }
            Self::Ip => "write an address, like \"10.0.0.1\" or \"2001:db8::1\"".to_owned(),
            Self::Table(_) => format!("write it as a table, [{path}]"),
            Self::Named(_) => format!("write one table for each, like [{path}.NAME]"),
            Self::List(_) => format!("write one table for each, [[{}]]", without_indices(path)),
        }
    }

    /// A value that the types accept.
    fn replacement(&self, path: &str) -> Value {
        match self {
            Self::Text => Value::String(String::new()),
            Self::Texts | Self::List(_) => Value::Array(Vec::new()),
            Self::Flag => Value::Boolean(false),
            Self::Integer(min, _) => Value::Integer(*min as i64),
            Self::OneOf(choices) => Value::String(choices.first().copied().unwrap_or_default().to_owned()),
            Self::Address => Value::String(format!("{}:1", nobodys_address(path))),
            Self::Ip => Value::String(nobodys_address(path).to_string()),
            Self::Named(_) => Value::Table(Table::new()),
            Self::Table(keys) => {
                let required = keys.iter().filter(|key| key.required);
                Value::Table(required.map(|key| (key.name.to_owned(), key.kind.replacement(path))).collect())
            }
        }
    }
}

/// Different for different keys, so that replacements do not look like duplicates; in a block that is never used.
fn nobodys_address(path: &str) -> Ipv4Addr {
    let hash = path.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    Ipv4Addr::from_bits(0xf000_0000 | hash & 0x00ff_ffff)
}

/// `route.header` for `route[1].header[0]`.
fn without_indices(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
