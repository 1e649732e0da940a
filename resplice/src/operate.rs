//! `resplice reload` and `resplice backend`: what changes something.

use std::path::Path;

use anyhow::bail;
use cluster::config::BackendState;
use cluster::control::{Done, FromLog, FromProxy, ToLog, ToLogger, ToManager, ToProxy};
use cluster::runtime::Runtime;

use crate::Outcome;
use crate::ask::{Answer, LONG_PATIENCE, ask};

/// Asks the daemon at a socket.
type Ask = fn(&Path) -> Answer<Done>;

/// Asks each daemon of this node in turn. Those of a logger come first: what a new backend says must be logged before a
/// proxy uses it. After the first refusal nobody else is asked.
pub(crate) fn reload(run_dir: &Path) -> Outcome {
    let asks: [(&str, Ask); 4] = [
        ("nfq-logger", |socket| ask(socket, &ToLogger::Reload, LONG_PATIENCE, Some)),
        ("transactionalizer", |socket| {
            ask(socket, &ToLog::Reload, LONG_PATIENCE, |message| match message {
                FromLog::Done(done) => Some(done),
                _ => None,
            })
        }),
        ("recovery-manager", |socket| ask(socket, &ToManager::Reload, LONG_PATIENCE, Some)),
        ("nfq-splice", |socket| ask(socket, &ToProxy::Reload, LONG_PATIENCE, done_by_proxy)),
    ];
    let runtime = Runtime::new(run_dir);
    let mut lines = Vec::new();
    for (daemon, ask) in asks {
        match ask(&runtime.socket(daemon)) {
            Answer::NotRunning => {}
            Answer::Got(Ok(what)) => lines.push(format!("{daemon}: {what}")),
            Answer::Got(Err(why)) | Answer::Failed(why) => {
                lines.push(format!("{daemon}: {why}"));
                bail!(lines.join("\n"));
            }
        }
    }
    if lines.is_empty() {
        bail!("no daemon runs in {}: name their directory with --run-dir DIR", run_dir.display());
    }
    Ok((lines.join("\n"), true))
}

/// Asks the proxy's daemon, which tells the recovery managers.
pub(crate) fn want(run_dir: &Path, backend: &str, state: BackendState) -> Outcome {
    let question = ToProxy::Want { backend: backend.to_owned(), state };
    let socket = Runtime::new(run_dir).socket("nfq-splice");
    match ask(&socket, &question, LONG_PATIENCE, done_by_proxy) {
        Answer::Got(Ok(what)) => Ok((what, true)),
        Answer::Got(Err(why)) => bail!("{why}"),
        Answer::Failed(why) => bail!("nfq-splice: {why}"),
        Answer::NotRunning => {
            bail!(
                "nfq-splice does not run in {}: run this on a proxy, or name --run-dir DIR",
                run_dir.display()
            )
        }
    }
}

fn done_by_proxy(message: FromProxy) -> Option<Done> {
    match message {
        FromProxy::Done(done) => Some(done),
        _ => None,
    }
}
