//! The lab's hosts, wires and routes as values.
//!
//! ```text
//! client .1.2 ── .1.1 proxy .2.1 ── .2.2 logger .3.1 ── .3.2 b1
//!                                          └──── .4.1 ── .4.2 b2      (10.77.x.x)
//! ```
//!
//! With an emulated client link, `link` stands between client and proxy: it takes over 10.77.1.1, and
//! 10.77.5.2 – 10.77.5.1 is the wire between it and the proxy. The virtual address is on no interface.

#![deny(clippy::disallowed_methods)]

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The virtual address's port.
pub const PORT: u16 = 80;
/// Where the backends serve; resplice's rules concern this port.
pub const SERVICE_PORT: u16 = 8080;
/// Where the backends serve the same documents untouched by any rule, to compare with.
pub const DIRECT_PORT: u16 = 8081;
/// Where the transactionalizer accepts recovery managers.
pub const CONTROL_PORT: u16 = 7001;

/// The IPv6 address that goes with an IPv4 address of the lab: 10.77.N.H and `fd77:0:0:N::H`.
pub const fn ipv6(address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, network, host] = address.octets();
    Ipv6Addr::new(0xfd77, 0, 0, network as u16, 0, 0, 0, host as u16)
}

/// A host of the lab: a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// Where curl and wrk run.
    Client,
    /// The emulated link between client and proxy, only there if asked for.
    Link,
    /// `nfq-splice` and `recovery-manager`.
    Proxy,
    /// `nfq-logger` and `transactionalizer`; an IP hop.
    Logger,
    /// First web server.
    B1,
    /// Second web server.
    B2,
}

impl Node {
    /// All nodes, in the order in which they are made.
    pub const ALL: [Self; 6] = [Self::Client, Self::Link, Self::Proxy, Self::Logger, Self::B1, Self::B2];
    /// The web servers.
    pub const BACKENDS: [Self; 2] = [Self::B1, Self::B2];

    /// Its name, as in `lab exec NODE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Link => "link",
            Self::Proxy => "proxy",
            Self::Logger => "logger",
            Self::B1 => "b1",
            Self::B2 => "b2",
        }
    }

    /// The address by which the others know it; the proxy's is the one towards the logger.
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::Client => Ipv4Addr::new(10, 77, 1, 2),
            Self::Link => Ipv4Addr::new(10, 77, 5, 2),
            Self::Proxy => Ipv4Addr::new(10, 77, 2, 1),
            Self::Logger => Ipv4Addr::new(10, 77, 2, 2),
            Self::B1 => Ipv4Addr::new(10, 77, 3, 2),
            Self::B2 => Ipv4Addr::new(10, 77, 4, 2),
        }
    }

    /// Whether it passes packets on.
    pub const fn forwards(self) -> bool {
        matches!(self, Self::Link | Self::Proxy | Self::Logger)
    }

    /// Whether it is a web server.
    pub const fn is_backend(self) -> bool {
        matches!(self, Self::B1 | Self::B2)
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The node.
    pub node: Node,
    /// Its interface.
    pub interface: &'static str,
    /// The interface's address; all networks are /24.
    pub address: Ipv4Addr,
}

/// A veth pair.
pub type Wire = [End; 2];

/// A route of a node; `to` as `ip route` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The node.
    pub node: Node,
    /// The network, or the virtual address.
    pub to: &'static str,
    /// The next hop.
    pub via: Ipv4Addr,
}

impl Route {
    /// The same route for IPv6: `ip -6 route`'s destination and next hop.
    pub fn ipv6(&self) -> Option<(String, Ipv6Addr)> {
        let via = ipv6(self.via);
        match self.to.split_once('/') {
            Some((network, "24")) => Some((format!("{}/64", ipv6(network.parse().ok()?)), via)),
            None if self.to == "default" => Some((self.to.to_owned(), via)),
            _ => Some((ipv6(self.to.parse().ok()?).to_string(), via)),
        }
    }
}

const fn end(node: Node, interface: &'static str, network: u8, host: u8) -> End {
    End { node, interface, address: Ipv4Addr::new(10, 77, network, host) }
}

/// All wires of a lab, with or without an emulated client link.
pub fn wires(emulated: bool) -> Vec<Wire> {
    let mut wires = if emulated {
        vec![
            [end(Node::Client, "eth0", 1, 2), end(Node::Link, "to-client", 1, 1)],
            [end(Node::Link, "to-proxy", 5, 2), end(Node::Proxy, "to-client", 5, 1)],
        ]
    } else {
        vec![[end(Node::Client, "eth0", 1, 2), end(Node::Proxy, "to-client", 1, 1)]]
    };
    wires.push([end(Node::Proxy, "to-logger", 2, 1), end(Node::Logger, "to-proxy", 2, 2)]);
    wires.push([end(Node::Logger, "to-b1", 3, 1), end(Node::B1, "eth0", 3, 2)]);
    wires.push([end(Node::Logger, "to-b2", 4, 1), end(Node::B2, "eth0", 4, 2)]);
    wires
}

/// All routes of a lab beyond those of its wires.
pub fn routes(emulated: bool) -> Vec<Route> {
    let route = |node, to, network, host| Route { node, to, via: Ipv4Addr::new(10, 77, network, host) };
    let mut routes = vec![
        route(Node::Client, "default", 1, 1),
        route(Node::Proxy, "10.77.3.0/24", 2, 2),
        route(Node::Proxy, "10.77.4.0/24", 2, 2),
        // Nothing goes there: the kernel needs a route to complain of a packet from the virtual address, and the daemon takes the complaint.
        route(Node::Proxy, "10.77.0.1", 2, 2),
        route(Node::Logger, "10.77.1.0/24", 2, 1),
        route(Node::B1, "default", 3, 1),
        route(Node::B2, "default", 4, 1),
    ];
    if emulated {
        routes.push(route(Node::Link, "default", 5, 1));
        routes.push(route(Node::Proxy, "10.77.1.0/24", 5, 2));
        routes.push(route(Node::Logger, "10.77.5.0/24", 2, 1));
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_next_hop_is_on_a_wire_of_the_node() {
        for emulated in [false, true] {
            for route in routes(emulated) {
                let network = |a: Ipv4Addr| a.octets()[2];
                let reachable = wires(emulated).iter().any(|wire| {
                    wire.iter().any(|end| end.node == route.node)
                        && wire.iter().any(|end| end.address == route.via)
                });
                assert!(reachable, "{route:?} network {}", network(route.via));
            }
        }
    }

    #[test]
    fn every_route_has_its_like_over_ipv6() {
        let all: Vec<_> = routes(true).iter().map(Route::ipv6).collect();
        assert!(all.iter().all(Option::is_some), "{all:?}");
        assert!(all.contains(&Some(("fd77:0:0:3::/64".to_owned(), "fd77:0:0:2::2".parse().unwrap()))));
    }

    #[test]
    fn no_interface_has_the_virtual_address() {
        assert!(wires(true).iter().flatten().all(|end| end.address != VIP));
    }
}
