//! The status as one JSON object, for programs.

use cluster::control::{BackendHealth, BackendStatus, ConnectionStatus, RecoveryRecord};
use serde_json::{Value, json};

use crate::status::{BackendView, Status};
use crate::text::evidence;

pub(crate) fn render(status: &Status) -> anyhow::Result<String> {
    let daemons = status
        .daemons()
        .map(|(name, state, error)| (name.to_owned(), json!({"state": state, "error": error})));
    let proxy = status.proxy.got();
    let manager = status.manager.got();
    let object = json!({
        "run_dir": status.run_dir,
        "daemons": daemons.into_iter().collect::<serde_json::Map<_, _>>(),
        "connections_total": proxy.map(|proxy| proxy.total),
        "connections": proxy.map(|proxy| proxy.connections.iter().map(connection).collect::<Vec<_>>()),
        "backends": status.backends().iter().map(backend).collect::<Vec<_>>(),
        "proxy_connected": manager.map(|manager| manager.proxy_connected),
        "loggers": manager.map(|manager| manager.loggers.iter().map(logger).collect::<Vec<_>>()),
        "recoveries": manager.map(|manager| manager.recoveries.iter().map(recovery).collect::<Vec<_>>()),
        "counters": status.counters(),
    });
    Ok(serde_json::to_string_pretty(&object)?)
}

fn connection(connection: &ConnectionStatus) -> Value {
    json!({
        "client": connection.client,
        "backend": connection.backend,
        "state": connection.state,
        "resplices": connection.resplices,
    })
}

fn backend(backend: &BackendView) -> Value {
    let proxy = backend.proxy.as_ref();
    json!({
        "name": proxy.and_then(|proxy| proxy.name.as_deref()),
        "address": backend.address,
        "state": proxy.map(|proxy| proxy.state.name()),
        "connections": proxy.map(|proxy| proxy.connections),
        "serves": proxy.map(BackendStatus::serves),
        "nfq-splice": proxy.map(|proxy| !proxy.down),
        "transactionalizer": backend.log,
        "health": backend.health.as_ref().map(health),
        "recovery-manager": backend.manager,
    })
}

fn health(health: &BackendHealth) -> Value {
    json!({
        "state": health.state.name(),
        "since_ms": health.since_ms,
        "good": health.good,
        "needed": health.needed,
        "flaps": health.flaps,
        "late": health.late,
        "margin": health.margin,
    })
}

fn logger((name, connected): &(String, bool)) -> Value {
    json!({"name": name, "connected": connected})
}

fn recovery(record: &RecoveryRecord) -> Value {
    let steps: Vec<_> = record.steps.iter().map(|(step, us)| json!({"step": step, "us": us})).collect();
    json!({
        "at_ms": record.at_ms,
        "client": record.flow.client,
        "failed": record.flow.backend,
        "alternate": record.alternate,
        "evidence": evidence(record.evidence),
        "noticed_us": record.noticed_us,
        "t_l": record.t_l,
        "p": record.p,
        "request": record.request,
        "outcome": record.outcome,
        "ok": record.ok,
        "steps": steps,
    })
}
