//! What `lab up` was asked for. Kept in the lab's state, so that a second `up` can tell what changed.

#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::daemons::Daemon;
use crate::topology::{Node, ipv6};

/// What stands at the virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Front {
    /// resplice's daemons.
    #[default]
    Resplice,
    /// nginx as a proxy, to compare with.
    Nginx,
    /// `HAProxy` in HTTP mode, to compare with.
    Haproxy,
    /// `HAProxy` in TCP mode with `splice-auto`, to compare with.
    HaproxyTcp,
    /// Nothing: plain routing.
    None,
}

/// The path that resplice takes, see `[splice] path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// conntrack translates.
    #[default]
    Kernel,
    /// `nfq-splice` translates.
    Userspace,
}

/// The emulated link between client and proxy.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LinkSettings {
    /// Round-trip time added, half of it each way.
    pub rtt: Duration,
    /// Greatest random extra delay of a packet, each way; the order is kept.
    pub jitter: Duration,
    /// Share of packets dropped, 0–1, each way.
    pub loss: f64,
    /// Share of packets delayed so long that later ones overtake them, 0–1, each way.
    pub reorder: f64,
    /// Bits per second, each way.
    pub rate: Option<u64>,
    /// Seed of all its chances.
    pub seed: u64,
}

impl LinkSettings {
    /// Whether anything is to be emulated.
    pub fn active(&self) -> bool {
        !self.rtt.is_zero()
            || !self.jitter.is_zero()
            || self.loss > 0.0
            || self.reorder > 0.0
            || self.rate.is_some()
    }
}

/// Everything that `lab up` can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The nodes to make, in the order of [`Node::ALL`]; `link` is added when the link is emulated.
    pub nodes: Vec<Node>,
    /// The emulated link.
    pub link: LinkSettings,
    /// What stands at the virtual address.
    pub front: Front,
    /// Which way resplice translates.
    pub path: Path,
    /// Whether failures are survived. If not, the front only forwards: the logger is a plain IP hop, of resplice only
    /// `nfq-splice` runs, and other proxies neither check their servers nor retry.
    pub failover: bool,
    /// The service and the backends have IPv6 addresses; the control connections stay on IPv4.
    #[serde(default)]
    pub ipv6: bool,
    /// Bytes of the web servers' socket send buffers: a small one lets a failure hit an exact place of a
    /// response, because a kernel still sends what a killed process left there. `None`: as the kernel tunes it.
    pub send_buffer: Option<u64>,
    /// The web servers have an application in PHP, see [`php`](crate::php).
    #[serde(default)]
    pub php: bool,
    /// `KEY=VALUE` for `cluster.toml`, the value in TOML.
    pub set: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: nodes(&[], false),
            link: LinkSettings::default(),
            front: Front::default(),
            path: Path::default(),
            failover: true,
            ipv6: false,
            send_buffer: None,
            php: false,
            set: Vec::new(),
        }
    }
}

impl Settings {
    /// An address of the lab in the family of its service.
    pub fn address(&self, address: Ipv4Addr) -> IpAddr {
        if self.ipv6 { IpAddr::V6(ipv6(address)) } else { IpAddr::V4(address) }
    }

    /// Whether the lab has this node.
    pub fn has(&self, node: Node) -> bool {
        self.nodes.contains(&node)
    }

    /// Whether this daemon runs in the lab.
    pub fn runs(&self, daemon: Daemon) -> bool {
        let wanted = self.failover || daemon == Daemon::NfqSplice;
        wanted && self.front == Front::Resplice && self.has(daemon.node())
    }

    /// The web servers behind the front: those that the lab has, or both if it has none.
    pub fn backends(&self) -> Vec<Node> {
        let present: Vec<Node> = Node::BACKENDS.into_iter().filter(|node| self.has(*node)).collect();
        if present.is_empty() { Node::BACKENDS.to_vec() } else { present }
    }
}

/// The nodes of a lab: `only` those (empty: all), and `link` exactly when it is emulated.
pub fn nodes(only: &[Node], emulated: bool) -> Vec<Node> {
    let wanted = |node: &Node| match node {
        Node::Link => emulated,
        _ => only.is_empty() || only.contains(node),
    };
    Node::ALL.into_iter().filter(wanted).collect()
}

/// A duration like `79ms`, `1.5s` or `200us`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        _ => bail!("{text}: give a unit: s, ms or us"),
    };
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text}: not a duration"))
}

/// A share like `1%` or `0.01`, as a number from 0 to 1.
pub fn parse_share(text: &str) -> Result<f64> {
    let (number, unit) = number_and_unit(text)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => bail!("{text}: give a share like 1%"),
    };
    ensure!((0.0..=1.0).contains(&share), "{text}: not between 0% and 100%");
    Ok(share)
}

/// A rate like `100mbit` or `1gbit`, in bits per second.
pub fn parse_rate(text: &str) -> Result<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => bail!("{text}: give a unit: kbit, mbit or gbit"),
    };
    let rate = number * factor;
    ensure!((1e3..=1e12).contains(&rate), "{text}: not between 1kbit and 1000gbit");
    Ok(rate as u64)
}

/// A number of bytes like `64k` or `300m`; k = 1000, as in the documents' names.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => bail!("{text}: give bytes, or a number with k, m or g"),
    };
    Ok((number * factor) as u64)
}

fn number_and_unit(text: &str) -> Result<(f64, &str)> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = number.parse().with_context(|| format!("{text}: does not start with a number"))?;
    Ok((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        assert_eq!(parse_duration("79ms").unwrap(), Duration::from_millis(79));
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert!((parse_share("1%").unwrap() - 0.01).abs() < 1e-12);
        assert_eq!(parse_rate("100mbit").unwrap(), 100_000_000);
        assert_eq!(parse_bytes("64k").unwrap(), 64_000);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parse_duration("79").is_err());
        assert!(parse_duration("ms").is_err());
        assert!(parse_share("101%").is_err());
        assert!(parse_rate("0mbit").is_err());
        assert!(parse_bytes("1x").is_err());
    }

    #[test]
    fn the_link_is_there_exactly_when_emulated() {
        assert!(!nodes(&[Node::Client, Node::Link], false).contains(&Node::Link));
        assert!(nodes(&[Node::Client], true).contains(&Node::Link));
        assert_eq!(nodes(&[], false).len(), 5);
    }
}
