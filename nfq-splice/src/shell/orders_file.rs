//! What the operator said of backends, so that it outlives the daemon: a line for each, name and state.

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it owns the file")]

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use cluster::config::BackendState;
use nfq_splice::routing::Routing;

/// Takes what is written there; what is not understood, or names no backend, is passed over and logged.
pub(super) fn apply(path: &Path, routing: &mut Routing) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            return tracing::warn!(
                "{}: {error}; backends have the states of the configuration",
                path.display()
            );
        }
    };
    for line in text.lines() {
        let order =
            line.split_once(' ').and_then(|(name, state)| Some((name, BackendState::from_name(state)?)));
        if !order.is_some_and(|(name, state)| routing.order(name, state)) {
            tracing::warn!("{}: {line:?} passed over: no state of a backend", path.display());
        }
    }
}

/// Replaces the file in one step.
pub(super) fn write(path: &Path, orders: &BTreeMap<String, BackendState>) -> Result<()> {
    let lines: Vec<_> = orders.iter().map(|(name, state)| format!("{name} {}\n", state.name())).collect();
    let new = path.with_extension("orders.new");
    std::fs::write(&new, lines.concat())
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("the order could not be written down in {}", path.display()))
}
