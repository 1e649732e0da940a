//! nft text: the parts that both roles have.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use netfilter::Family;

use crate::{HAND_OVER_CHAIN, QueueForm, queue_chain};

/// A chain: its hook, if any, and its rules.
pub(crate) struct Chain {
    pub(crate) name: String,
    /// `type … hook … priority …`; `None`: called by others.
    pub(crate) hook: Option<&'static str>,
    /// `None`: somebody else fills it.
    pub(crate) rules: Option<Vec<String>>,
}

impl Chain {
    pub(crate) fn hooked(name: &'static str, hook: &'static str, rules: Vec<String>) -> Self {
        Self { name: name.to_owned(), hook: Some(hook), rules: Some(rules) }
    }

    pub(crate) fn called(name: &str, rules: Vec<String>) -> Self {
        Self { name: name.to_owned(), hook: None, rules: Some(rules) }
    }
}

/// A chain for each queue, and the one through which packets come to the first.
pub(crate) fn queue_chains(form: QueueForm, queues: Range<u16>) -> Vec<Chain> {
    let rules = |queue| (form == QueueForm::Native).then(|| vec![format!("queue num {queue}")]);
    let one = |(index, queue)| Chain { name: queue_chain(index), hook: None, rules: rules(queue) };
    let mut chains: Vec<Chain> = queues.enumerate().map(one).collect();
    chains.push(hand_over(HAND_OVER_CHAIN, format!("jump {}", queue_chain(0))));
    chains
}

/// A chain that calls a queue's chain and drops what comes back.
pub(crate) fn hand_over(name: &str, call: String) -> Chain {
    Chain::called(name, vec![call, "counter drop".to_owned()])
}

/// One transaction: everything is added where it is missing, chains are flushed and filled again.
pub(crate) fn transaction(family: Family, table: &str, sets: &[String], chains: &[Chain]) -> String {
    let table = format!("{} {table}", family.name());
    let mut text = format!("add table {table}\n");
    for set in sets {
        let _ = writeln!(text, "add set {table} {set}");
    }
    for Chain { name, hook, .. } in chains {
        let hook = hook.map_or(String::new(), |hook| format!(" {{ {hook}; policy accept; }}"));
        let _ = writeln!(text, "add chain {table} {name}{hook}");
    }
    for (name, _) in filled(chains) {
        let _ = writeln!(text, "flush chain {table} {name}");
    }
    for (name, rules) in filled(chains) {
        for rule in rules {
            let _ = writeln!(text, "add rule {table} {name} {rule}");
        }
    }
    text
}

fn filled(chains: &[Chain]) -> impl Iterator<Item = (&str, &[String])> {
    chains.iter().filter_map(|chain| Some((chain.name.as_str(), chain.rules.as_deref()?)))
}

pub(crate) fn family(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::Ip } else { Family::Ip6 }
}

/// The type of an address in a set's key.
pub(crate) fn address_type(family: Family) -> &'static str {
    if family == Family::Ip6 { "ipv6_addr" } else { "ipv4_addr" }
}

/// `ADDRESS . PORT`, as in a set of both.
fn element(address: SocketAddr) -> String {
    format!("{} . {}", address.ip(), address.port())
}

/// `{ ADDRESS . PORT, … }`
pub(crate) fn elements(addresses: &[SocketAddr]) -> String {
    let list: Vec<String> = addresses.iter().copied().map(element).collect();
    format!("{{ {} }}", list.join(", "))
}

/// Packets to this address and port.
pub(crate) fn to(address: SocketAddr) -> String {
    let family = match address.ip() {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    format!("{family} daddr {} tcp dport {}", address.ip(), address.port())
}
