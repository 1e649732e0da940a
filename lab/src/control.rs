//! What the daemons say of themselves over their sockets.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::control::{
    FromLog, FromProxy, LogStatus, LoggerStatus, ManagerStatus, Mismatches, ProxyStatus, ToLog, ToLogger,
    ToManager, ToProxy,
};
use cluster::frame;
use cluster::runtime::Runtime;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::daemons::Daemon;
use crate::lab::Lab;
use crate::testing::await_condition;
use crate::topology::Node;

const PATIENCE: Duration = Duration::from_secs(5);
/// Time in which a healed backend must be in use again: some good heartbeats.
const RETURN: Duration = Duration::from_secs(20);
/// Until a connection is old enough for the kernel.
const SPLICED: Duration = Duration::from_secs(5);

impl Lab {
    /// What `nfq-splice` says.
    pub fn proxy_status(&self) -> Result<ProxyStatus> {
        match self.ask(Daemon::NfqSplice, &ToProxy::Status)? {
            FromProxy::Status(status) => Ok(status),
            _ => bail!("nfq-splice answered something else"),
        }
    }

    /// What `recovery-manager` says.
    pub fn manager_status(&self) -> Result<ManagerStatus> {
        self.ask(Daemon::RecoveryManager, &ToManager::Status)
    }

    /// What it says of answers that differed.
    pub fn mismatches(&self) -> Result<Mismatches> {
        self.ask(Daemon::RecoveryManager, &ToManager::Mismatches)
    }

    /// What `transactionalizer` says.
    pub fn log_status(&self) -> Result<LogStatus> {
        match self.ask(Daemon::Transactionalizer, &ToLog::Status)? {
            FromLog::Status(status) => Ok(status),
            _ => bail!("transactionalizer answered something else"),
        }
    }

    /// What `nfq-logger` says.
    pub fn logger_status(&self) -> Result<LoggerStatus> {
        self.ask(Daemon::NfqLogger, &ToLogger::Status)
    }

    /// Waits until the kernel translates the first of the proxy's connections.
    pub fn await_kernel_splice(&self) -> Result<()> {
        await_condition("conntrack has it", SPLICED, || {
            let connections = self.proxy_status()?.connections;
            Ok(connections.first().is_some_and(|connection| connection.state == "spliced-kernel"))
        })
    }

    /// Waits until every part is connected to every other and no backend is believed to be down.
    pub fn await_backends(&self) -> Result<()> {
        await_condition("all daemons connected and both backends in use", RETURN, || {
            let (manager, proxy) = (self.manager_status()?, self.proxy_status()?);
            let connected =
                manager.proxy_connected && manager.loggers.iter().all(|(_, connected)| *connected);
            let up = proxy.backends.iter().filter(|backend| backend.serves()).count();
            Ok(connected && manager.down.is_empty() && up == Node::BACKENDS.len())
        })
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(&self, daemon: Daemon, question: &Q) -> Result<A> {
        let socket = Runtime::new(self.run_dir(daemon.node())).socket(daemon.name());
        let stream = UnixStream::connect(&socket);
        let mut stream = stream.with_context(|| format!("{} does not answer", daemon.name()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        frame::write(&mut stream, question)?;
        let answer = frame::read(&mut stream)?;
        answer.with_context(|| format!("{} closed the connection", daemon.name()))
    }
}
