//! Failures of a backend, and their undoing.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::network;
use crate::nginx::Nginx;
use crate::php::Php;
use crate::process::Process;
use crate::topology::{Node, SERVICE_PORT};

/// How a backend fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL to the server's and the application's processes; the kernel lives and closes their connections.
    Kill,
    /// The host drops every packet, in and out: no FIN, no RST, no ICMP.
    Silent,
    /// The host's interface is down.
    Link,
    /// SIGSTOP to the server process and its workers; the kernel lives and acknowledges.
    Freeze,
    /// The connections that are open end with a RST; the server goes on with new ones.
    Reset,
}

impl Lab {
    /// Makes `node` fail. Doing it again changes nothing.
    pub fn fail(&self, node: Node, fault: Fault) -> Result<()> {
        ensure!(node.is_backend(), "only b1 and b2 can fail, not {node}");
        // Remembered first: after a crash in between, healing must know.
        let file = self.fault_file(node);
        fs::create_dir_all(self.dir())?;
        fs::write(&file, serde_json::to_vec(&fault)?)?;
        let netns = self.netns(node);
        match fault {
            Fault::Kill => Nginx::new(self, node).kill().and(Php::new(self, node).kill()),
            Fault::Silent => netns.run(Command::new("sh").args(["-c", SILENCE])).map(drop),
            Fault::Link => netns.run(Command::new("ip").args(["link", "set", "eth0", "down"])).map(drop),
            Fault::Freeze => Nginx::new(self, node).signal(Signal::STOP),
            Fault::Reset => self.reset(node),
        }
    }

    /// Does all of a failure but its last step, so that the moment of the failure can be chosen and known.
    pub fn prepare(&self, node: Node, fault: Fault) -> Result<Prepared> {
        ensure!(node.is_backend(), "only b1 and b2 can fail, not {node}");
        fs::create_dir_all(self.dir())?;
        fs::write(self.fault_file(node), serde_json::to_vec(&fault)?)?;
        let nginx = Nginx::new(self, node);
        Ok(match fault {
            Fault::Kill => Prepared::Signal(nginx.master(), Signal::KILL),
            Fault::Freeze => Prepared::Signal(nginx.master(), Signal::STOP),
            Fault::Silent => Prepared::Silence(self.prepare_silence(node)?),
            Fault::Link | Fault::Reset => Prepared::Other(self.clone(), node, fault),
        })
    }

    fn prepare_silence(&self, node: Node) -> Result<Child> {
        let mut restore = Command::new("iptables-restore");
        restore.arg("-w").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.netns(node).spawn(&mut restore)?;
        let rules = "*filter\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n-A INPUT -j DROP\n-A OUTPUT -j DROP\n";
        child.stdin.as_mut().context("no standard input")?.write_all(rules.as_bytes())?;
        Ok(child)
    }

    /// Undoes every failure of `node`; true if there was one.
    pub fn heal(&self, node: Node) -> Result<bool> {
        let Some(fault) = self.fault(node) else { return Ok(false) };
        match fault {
            Fault::Kill | Fault::Reset => {}
            Fault::Silent => {
                for program in ["iptables", "ip6tables"] {
                    self.netns(node).run(Command::new(program).args(["-w", "-F"]))?;
                }
            }
            Fault::Link => network::configure(self, &self.settings()?, node)?,
            Fault::Freeze => Nginx::new(self, node).signal(Signal::CONT)?,
        }
        self.start_server(node)?;
        fs::remove_file(self.fault_file(node))?;
        Ok(true)
    }

    /// Starts what `node` serves with, unless it runs already; true if it had to.
    pub(crate) fn start_server(&self, node: Node) -> Result<bool> {
        let application = self.settings()?.php && Php::new(self, node).start()?;
        Ok(Nginx::new(self, node).start()? || application)
    }

    /// How `node` was made to fail, if it was.
    pub fn fault(&self, node: Node) -> Option<Fault> {
        serde_json::from_slice(&fs::read(self.fault_file(node)).ok()?).ok()
    }

    /// The kernel closes each connection with a RST at its next sequence number, as for a socket closed
    /// with data unread or with linger time 0.
    fn reset(&self, node: Node) -> Result<()> {
        let mut ss = Command::new("ss");
        ss.args(["-K", "-H", "-t", "-n", "state", "established", "sport", "=", &format!(":{SERVICE_PORT}")]);
        let before = self.connections(node)?.len();
        let closed = self.netns(node).run(&mut ss)?.lines().count();
        ensure!(
            closed > 0 || before == 0,
            "ss -K closed none of {before} connections: the kernel lacks CONFIG_INET_DIAG_DESTROY"
        );
        Ok(())
    }

    fn fault_file(&self, node: Node) -> PathBuf {
        self.dir().join(format!("{node}.fault"))
    }
}

/// A failure but for its last step.
#[derive(Debug)]
pub enum Prepared {
    /// The process group of this one, if it runs, is to get this signal.
    Signal(Option<Process>, Signal),
    /// iptables-restore waits for its last line.
    Silence(Child),
    /// Not prepared: all of it is to be done.
    Other(Lab, Node, Fault),
}

impl Prepared {
    /// Lets it happen; the moment before it happened. The backend is silent, or dead, when this returns.
    pub fn strike(self) -> Result<SystemTime> {
        let now = SystemTime::now();
        match self {
            Self::Signal(leader, signal) => {
                if let Some(leader) = leader {
                    leader.signal_group(signal);
                }
            }
            Self::Silence(mut child) => {
                child.stdin.take().context("no standard input")?.write_all(b"COMMIT\n")?;
                let output = child.wait_with_output()?;
                ensure!(output.status.success(), "iptables-restore: {output:?}");
            }
            Self::Other(lab, node, fault) => lab.fail(node, fault)?,
        }
        Ok(now)
    }
}

/// Both directions of a family in one transaction.
const SILENCE: &str = "for restore in ip6tables-restore iptables-restore; do \
     printf '*filter\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n-A INPUT -j DROP\n-A OUTPUT -j DROP\nCOMMIT\n' | $restore -w || exit 1; done";
