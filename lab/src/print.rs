//! Output for people and programs.

use std::io::{Write, stdout};

use anyhow::Result;
use lab::bench::Outcome;
use lab::dump::Section;
use lab::operate::{State, Status};
use serde::Serialize;

/// What was done, one line each, or `nothing` if nothing was.
pub(crate) fn done(json: bool, done: &[String], nothing: &str) -> Result<()> {
    if json {
        return object(&serde_json::json!({ "done": done }));
    }
    let mut out = stdout().lock();
    if done.is_empty() {
        writeln!(out, "{nothing}")?;
    }
    for line in done {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

pub(crate) fn status(json: bool, status: &Status) -> Result<()> {
    if json {
        return object(status);
    }
    let mut out = stdout().lock();
    writeln!(out, "lab {}: http://{}:{}/  ({})", status.name, status.vip, status.port, status.state_dir)?;
    for (node, address) in &status.nodes {
        writeln!(out, "  {node:<18} {address}")?;
    }
    for (name, server) in &status.servers {
        let fault = server.fault.map(|fault| format!(", made to fail: {fault:?}").to_lowercase());
        writeln!(out, "  nginx on {name:<9} {}{}", state(&server.process), fault.unwrap_or_default())?;
    }
    for (name, daemon) in &status.daemons {
        writeln!(out, "  {name:<18} {}", state(daemon))?;
    }
    if status.daemons.contains_key("link-emulator") {
        let rate = status.rate_bits.map_or("unlimited".to_owned(), |rate| format!("{rate} bit/s"));
        writeln!(
            out,
            "  link: rtt {} ms, jitter {} ms, loss {} %, reorder {} %, rate {rate}",
            status.rtt_ms,
            status.jitter_ms,
            status.loss * 100.0,
            status.reorder * 100.0
        )?;
    }
    Ok(())
}

pub(crate) fn bench(json: bool, outcome: &Outcome) -> Result<()> {
    let text = if json { outcome.json()? } else { outcome.text() };
    Ok(stdout().lock().write_all(text.as_bytes())?)
}

pub(crate) fn dump(json: bool, sections: &[Section]) -> Result<()> {
    if json {
        return object(&sections);
    }
    let mut out = stdout().lock();
    for Section { node, what, text } in sections {
        writeln!(out, "==== {node}: {what}\n{}", text.trim_end())?;
    }
    Ok(())
}

fn state(state: &State) -> String {
    let pid = state.pid.map(|pid| format!(" ({pid})"));
    format!("{}{}", state.state, pid.unwrap_or_default())
}

fn object<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    Ok(writeln!(out)?)
}
