//! The ways from a client to a web server that are compared.

use std::net::SocketAddrV4;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::daemons::Daemon;
use crate::fronts;
use crate::lab::Lab;
use crate::owned::OwnedLab;
use crate::process::Process;
use crate::settings::{Front, Path, Settings, nodes};
use crate::topology::{DIRECT_PORT, Node, PORT, VIP};

/// A way from the client to the web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// The proxy only forwards: the limit.
    Plain,
    /// resplice, conntrack translates.
    Kernel,
    /// resplice, `nfq-splice` translates.
    Userspace,
    /// `HAProxy` in TCP mode with `splice-auto`.
    HaproxyTcp,
    /// `HAProxy` in HTTP mode, connections to the server kept.
    HaproxyHttp,
    /// nginx as a proxy, connections to the server kept.
    Nginx,
}

impl Contender {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Kernel, Self::Userspace, Self::HaproxyTcp, Self::HaproxyHttp, Self::Nginx];

    /// As the rows call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain forwarding",
            Self::Kernel => "resplice kernel path",
            Self::Userspace => "resplice userspace path",
            Self::HaproxyTcp => "HAProxy TCP splice-auto",
            Self::HaproxyHttp => "HAProxy HTTP",
            Self::Nginx => "nginx",
        }
    }

    /// Part of a lab's name, which is short.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Kernel => "kernel",
            Self::Userspace => "user",
            Self::HaproxyTcp => "hatcp",
            Self::HaproxyHttp => "hahttp",
            Self::Nginx => "nginx",
        }
    }

    /// How many sockets of the proxy's process an idle connection needs.
    pub(super) const fn sockets_when_idle(self) -> usize {
        match self {
            Self::Plain | Self::Kernel | Self::Userspace => 0,
            Self::HaproxyTcp => 2,
            Self::HaproxyHttp | Self::Nginx => 1,
        }
    }

    /// What the client connects to.
    pub(super) fn address(self) -> SocketAddrV4 {
        match self {
            Self::Plain => SocketAddrV4::new(Node::B1.address(), DIRECT_PORT),
            _ => SocketAddrV4::new(VIP, PORT),
        }
    }

    /// One web server for all: plain forwarding could not spread over two.
    fn settings(self) -> Settings {
        let (front, path) = match self {
            Self::Plain => (Front::None, Path::Kernel),
            Self::Kernel => (Front::Resplice, Path::Kernel),
            Self::Userspace => (Front::Resplice, Path::Userspace),
            Self::HaproxyTcp => (Front::HaproxyTcp, Path::Kernel),
            Self::HaproxyHttp => (Front::Haproxy, Path::Kernel),
            Self::Nginx => (Front::Nginx, Path::Kernel),
        };
        let nodes = nodes(&[Node::Client, Node::Proxy, Node::Logger, Node::B1], false);
        Settings { front, path, nodes, failover: false, ..Settings::default() }
    }

    /// A lab of its own, its name made from `base`.
    pub(super) fn up(self, base: &str) -> Result<OwnedLab> {
        let lab = OwnedLab::up(&format!("{base}-{}", self.suffix()), &self.settings())?;
        // Where the client closes first, the kernel would keep its port for a minute; so it is a second.
        lab.netns(Node::Client).sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        Ok(lab)
    }

    /// The processes that forward.
    pub(super) fn processes(self, lab: &Lab) -> Vec<Process> {
        match self {
            Self::Plain => Vec::new(),
            Self::Kernel | Self::Userspace => lab.daemon(Daemon::NfqSplice).into_iter().collect(),
            _ => fronts::process(lab, self.settings().front)
                .into_iter()
                .flat_map(|front| std::iter::once(front).chain(front.children()))
                .collect(),
        }
    }
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
