//! A second recovery manager takes over: the first one, which knows nothing of it, is fenced. And without any, traffic goes on.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::control::{ManagerStatus, ToManager};
use cluster::frame;
use cluster::runtime::Runtime;
use lab::daemons::binary;
use lab::settings::Settings;
use lab::testing::{await_condition, in_lab};
use lab::{Daemon, Fault, Lab, Node};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(10);

/// Killed when the test ends, however it does.
struct Second(Child);

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(runtime: &Runtime) -> Result<ManagerStatus> {
    let mut stream = std::os::unix::net::UnixStream::connect(runtime.socket("recovery-manager"))?;
    frame::write(&mut stream, &ToManager::Status)?;
    frame::read(&mut stream)?.context("the manager closed the connection")
}

/// Beside the first one, with a directory of its own: as if that were lost, or the host its twin.
fn start_second(lab: &Lab) -> Result<(Second, Runtime)> {
    let dir = lab.dir().join("run/second");
    fs::create_dir_all(&dir)?;
    let splice = Runtime::new(lab.run_dir(Node::Proxy)).socket("nfq-splice");
    std::os::unix::fs::symlink(splice, dir.join("nfq-splice.sock"))?;
    let mut command = Command::new(binary("recovery-manager")?);
    command.arg("--config").arg(lab.cluster_file()).args(["--node", "proxy", "--run-dir"]).arg(&dir);
    command.stdin(Stdio::null()).stderr(fs::File::create(lab.log("second"))?);
    Ok((Second(lab.netns(Node::Proxy).spawn(&mut command)?), Runtime::new(dir)))
}

#[test]
fn the_later_one_recovers_and_the_earlier_one_is_fenced() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let first = Runtime::new(lab.run_dir(Node::Proxy));
        let (_second, second) = start_second(lab)?;
        let fenced = |runtime: &Runtime| status(runtime).is_ok_and(|status| status.counters["fenced"] == 1);
        let connected = |runtime: &Runtime| {
            status(runtime).is_ok_and(|it| it.proxy_connected && it.loggers.iter().all(|(_, up)| *up))
        };
        await_condition("the first manager is not fenced", PATIENCE, || Ok(fenced(&first)))?;
        await_condition("the second manager is not connected", PATIENCE, || Ok(connected(&second)))?;
        let mut curl = lab.curl(&[&lab.url("/files/10m")])?;
        curl.read_to(100_000)?;
        lab.fail(lab.serving_any()?, Fault::Kill)?;
        curl.finish()?.check("/files/10m")?;
        let (first, second) = (status(&first)?, status(&second)?);
        ensure!(first.recoveries.is_empty(), "the fenced one took part: {first:?}");
        ensure!(second.recoveries.iter().any(|it| it.ok), "the second one did nothing: {second:?}");
        ensure!(second.counters["fenced"] == 0, "{second:?}");
        Ok(())
    })
}

#[test]
fn without_transactionalizer_and_manager_traffic_goes_on_and_protection_resumes() -> Result<()> {
    in_lab(&Settings::default(), |lab| {
        let gone = [Daemon::RecoveryManager, Daemon::Transactionalizer];
        let mut old = lab.curl(&[&lab.url("/files/300m")])?;
        old.read_to(10_000_000)?;
        gone.into_iter().try_for_each(|daemon| lab.stop_daemon(daemon, Signal::KILL))?;
        lab.curl(&[&lab.url("/files/1m")])?.finish()?.check("/files/1m").context("a new connection")?;
        old.read_to(50_000_000).context("the old connection")?;
        gone.into_iter().rev().try_for_each(|daemon| lab.start_daemon(daemon).map(drop))?;
        old.finish()?.check("/files/300m").context("the old connection")?;
        lab.await_backends()?;
        let mut curl = lab.curl(&[&lab.url("/files/10m")])?;
        curl.read_to(100_000)?;
        lab.fail(lab.serving_any()?, Fault::Kill)?;
        curl.finish()?.check("/files/10m").context("a failure afterwards")
    })
}
