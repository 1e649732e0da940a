//! What the network says of the proxy's connections: ICMP errors about their segments, and fragments of them.
//!
//! An error quotes the segment's headers at fixed places (if its IP header has no options), so the client's address and port are found
//! there, and with them the queue of the thread that owns the connection. Errors are queued before conntrack: it would
//! translate the quoted addresses, but not the quoted sequence number, and a backend would not believe it. They are queued
//! in `output`, too, because the proxy itself may be the hop whose next link is too small; for that it needs a route to the service.

use std::net::{IpAddr, SocketAddr};

use netfilter::Family;

use crate::placement;
use crate::text::Chain;

/// The chain that hands errors about segments to a client to the client's queue.
const ABOUT_CLIENT_CHAIN: &str = "error_about_client";
/// The chain that hands errors about segments to a backend to the client's queue.
const ABOUT_BACKEND_CHAIN: &str = "error_about_backend";

/// Bits from the ICMP header to the quoted header's parts, and bits of an address.
struct Quote {
    source: u32,
    destination: u32,
    source_port: u32,
    destination_port: u32,
    address: u32,
}

const QUOTE_V4: Quote =
    Quote { source: 160, destination: 192, source_port: 224, destination_port: 240, address: 32 };
const QUOTE_V6: Quote =
    Quote { source: 128, destination: 256, source_port: 384, destination_port: 400, address: 128 };

fn quote(family: Family) -> &'static Quote {
    if family == Family::Ip6 { &QUOTE_V6 } else { &QUOTE_V4 }
}

fn errors(family: Family) -> &'static str {
    if family == Family::Ip6 {
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
    } else {
        "icmp type { destination-unreachable, source-quench, time-exceeded, parameter-problem }"
    }
}

/// An address as the number that a raw payload is compared with.
fn number(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:#x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:#x}", u128::from(address)),
    }
}

/// Errors about the connections of `service` with `backends`, in any hook before conntrack.
pub(crate) fn error_rules(service: SocketAddr, backends: &[SocketAddr]) -> Vec<String> {
    let family = crate::text::family(service);
    let (ip, errors) = (family.name(), errors(family));
    let Quote { destination, address, .. } = quote(family);
    let mut hosts: Vec<String> = backends.iter().map(|backend| number(backend.ip())).collect();
    hosts.dedup();
    vec![
        format!("{ip} daddr {} {errors} goto {ABOUT_CLIENT_CHAIN}", service.ip()),
        format!("{errors} @th,{destination},{address} {{ {} }} goto {ABOUT_BACKEND_CHAIN}", hosts.join(", ")),
    ]
}

/// The chains that those rules go to; `call` completes a hash to a rule that calls a queue's chain.
pub(crate) fn error_chains(family: Family, queues: u16, call: impl Fn(&str) -> String) -> [Chain; 2] {
    let Quote { source, destination, source_port, destination_port, address } = quote(family);
    let hash = |host: &u32, port: &u32| {
        call(&placement::hash_of(&format!("@th,{host},{address} . @th,{port},16"), queues))
    };
    [
        crate::text::hand_over(ABOUT_CLIENT_CHAIN, hash(destination, destination_port)),
        crate::text::hand_over(ABOUT_BACKEND_CHAIN, hash(source, source_port)),
    ]
}

/// Before the kernel puts IPv4 fragments together: those with which TCP headers are hidden from filters (RFC 1858 §3,
/// RFC 3128). Overlapping ones it drops itself, those of IPv6 with the whole packet (RFC 8200 §4.5).
pub(crate) fn fragment_chain(service: SocketAddr) -> Option<Chain> {
    let IpAddr::V4(address) = service.ip() else { return None };
    let ours = format!("ip daddr {address} ip protocol tcp");
    let rules = vec![
        "ip frag-off & 0x3fff == 0 accept".to_owned(),
        format!("{ours} ip frag-off & 0x1fff == 1 counter drop"),
        format!("{ours} ip frag-off & 0x3fff == 0x2000 ip length < 40 counter drop"),
    ];
    Some(Chain::hooked("fragments", "type filter hook prerouting priority -450", rules))
}

/// A fragment that was not put together has no port by which it could be told from others' traffic.
pub(crate) fn untranslated_fragment(service: SocketAddr) -> String {
    match service.ip() {
        IpAddr::V4(address) => format!("ip daddr {address} ip frag-off & 0x3fff != 0 counter drop"),
        IpAddr::V6(address) => format!("ip6 daddr {address} exthdr frag exists counter drop"),
    }
}
