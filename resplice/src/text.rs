//! The status as tables, for people.

use cluster::control::{
    BackendHealth, ConnectionStatus, Evidence, HealthState, ManagerStatus, ProxyStatus, RecoveryRecord,
};

use crate::status::{BackendView, Status};
use crate::table::{mask, table};

/// Lines of a list at most; `--json` has them all.
const SHOWN: usize = 50;

/// `now_ms` is the Unix time in milliseconds.
pub(crate) fn render(status: &Status, now_ms: u64) -> String {
    let mut sections = vec![daemons(status)];
    sections.extend(status.proxy.got().map(connections));
    sections.push(backends(&status.backends()));
    sections.extend(status.manager.got().map(|manager| recoveries(manager, now_ms)));
    sections.push(counters(status));
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn daemons(status: &Status) -> String {
    let row = |(name, state, error): (&str, &str, Option<&str>)| {
        vec![name.to_owned(), state.to_owned(), error.unwrap_or_default().to_owned()]
    };
    format!("Daemons in {}\n{}", status.run_dir, table(&["daemon", "state", ""], &status.daemons().map(row)))
}

fn connections(proxy: &ProxyStatus) -> String {
    let row = |connection: &ConnectionStatus| {
        vec![
            connection.client.to_string(),
            connection.backend.map(|backend| backend.to_string()).unwrap_or_default(),
            connection.state.clone(),
            connection.resplices.to_string(),
        ]
    };
    let rows: Vec<_> = proxy.connections.iter().take(SHOWN).map(row).collect();
    let left_out = match proxy.total.saturating_sub(rows.len() as u64) {
        0 => String::new(),
        more => format!("  … and {more} more\n"),
    };
    let list = if rows.is_empty() {
        String::new()
    } else {
        table(&["client", "backend", "state", "re-splices"], &rows)
    };
    format!("Connections: {}\n{list}{left_out}", proxy.total)
}

fn backends(backends: &[BackendView]) -> String {
    let word = |up: Option<bool>| match up {
        Some(true) => "up",
        Some(false) => "down",
        None => "-",
    };
    let row = |view: &BackendView| {
        let proxy = view.proxy.as_ref();
        let name = proxy.map_or("-", |proxy| proxy.name.as_deref().unwrap_or("(removed)"));
        vec![
            name.to_owned(),
            view.address.to_string(),
            proxy.map_or("-", |proxy| proxy.state.name()).to_owned(),
            proxy.map_or_else(|| "-".to_owned(), |proxy| proxy.connections.to_string()),
            word(proxy.map(|proxy| !proxy.down)).to_owned(),
            view.health.as_ref().map_or_else(|| word(view.log).to_owned(), health),
            word(view.manager).to_owned(),
        ]
    };
    let rows: Vec<_> = backends.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let header =
        ["name", "address", "state", "connections", "nfq-splice", "transactionalizer", "recovery-manager"];
    format!("Backends\n{}", table(&header, &rows))
}

/// The detector's view: `down for 12 s, 1 of 3 good heartbeats, 2 recent failures`.
fn health(health: &BackendHealth) -> String {
    let BackendHealth { state, since_ms, good, needed, flaps, late, margin, .. } = health;
    let coming = matches!(state, HealthState::Down | HealthState::Returning);
    let parts = [
        coming.then(|| format!(" for {}, {good} of {needed} good heartbeats", duration(since_ms * 1000))),
        (*late > 0).then(|| format!(", {late} late")),
        (*flaps > 0).then(|| format!(", {flaps} recent failures")),
        (*margin > 1).then(|| format!(", patience x{margin}")),
    ];
    state.name().to_owned() + &parts.into_iter().flatten().collect::<String>()
}

fn recoveries(manager: &ManagerStatus, now_ms: u64) -> String {
    let links: Vec<_> = std::iter::once(("nfq-splice".to_owned(), manager.proxy_connected))
        .chain(manager.loggers.iter().cloned())
        .map(|(peer, connected)| format!("{peer} {}", if connected { "connected" } else { "NOT connected" }))
        .collect();
    let list: String =
        manager.recoveries.iter().rev().take(SHOWN).map(|record| recovery(record, now_ms)).collect();
    let list = if list.is_empty() { "  none yet\n".to_owned() } else { list };
    format!("Recovery: {}\nLast recoveries, newest first\n{list}", mask(&links.join(", ")))
}

/// One recovery as a short story.
fn recovery(record: &RecoveryRecord, now_ms: u64) -> String {
    let alternate = record.alternate.map_or_else(|| "none".to_owned(), |alternate| alternate.to_string());
    let request = record.request.as_deref().unwrap_or("no request in progress");
    let steps: Vec<_> = record.steps.iter().map(|(step, us)| format!("{step} {}", duration(*us))).collect();
    let ago = now_ms.saturating_sub(record.at_ms).saturating_mul(1000);
    let lines = [
        format!("{} ago, {}", duration(ago), if record.ok { "recovered" } else { "LOST" }),
        format!("  client {}  backend {} -> {alternate}", record.flow.client, record.flow.backend),
        format!("  {request} (T_L {}, p {})", record.t_l, record.p),
        format!("  {}, noticed after {}", evidence(record.evidence), duration(record.noticed_us)),
        format!("  {}", record.outcome),
        format!("  {}", steps.join(", ")),
    ];
    let shown = lines.iter().map(|line| mask(line)).filter(|line| !line.trim().is_empty());
    shown.map(|line| format!("  {line}\n")).collect::<Vec<_>>().concat()
}

fn counters(status: &Status) -> String {
    let rows: Vec<_> = status
        .counters()
        .into_iter()
        .flat_map(|(daemon, counters)| counters.iter().map(move |(name, value)| (daemon, name, value)))
        .map(|(daemon, name, value)| vec![daemon.to_owned(), name.clone(), value.to_string()])
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("Counters\n{}", table(&["daemon", "counter", "value"], &rows))
    }
}

/// For people and programs.
pub(crate) fn evidence(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::PrematureFin => "premature FIN",
        Evidence::PrematureReset => "premature reset",
        Evidence::HostSilent => "host silent",
        Evidence::ApplicationTimeout => "application timeout",
        Evidence::Heartbeat => "heartbeat failed",
        Evidence::Unreachable => "host unreachable",
    }
}

/// Microseconds as people read them.
pub(crate) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..120_000_000 => format!("{:.1} s", us as f64 / 1e6),
        120_000_000..7_200_000_000 => format!("{} min", us / 60_000_000),
        _ => format!("{} h", us / 3_600_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_fitting_units() {
        for (us, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (3_400, "3.4 ms"),
            (2_000_000, "2.0 s"),
            (180_000_000, "3 min"),
            (u64::MAX, "5124095576 h"),
        ] {
            assert_eq!(duration(us), text);
        }
    }
}
