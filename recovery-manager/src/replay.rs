//! `[T_R, T_L]`: what an alternate without the connection's state runs again, before the transaction in progress (paper §4.3).

use std::net::SocketAddr;

use cluster::config;
use cluster::control::{AnsweredUpdate, ConnectionReport, Replayed};

use crate::equations::{self, AlternateState};

/// The log has not kept what would have to be replayed.
const NOT_KEPT: &str =
    "the log has not kept the connection's updates: it began before its pool had state = \"separate\"";

/// Answered updates to run again, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Their requests.
    pub(crate) bytes: Vec<u8>,
    pub(crate) replayed: Vec<Replayed>,
}

/// What brings an alternate with this state to T_L; read-only transactions are skipped. `Err`: it cannot be brought there.
pub(crate) fn replay(
    report: &ConnectionReport,
    state: AlternateState,
    config: &config::Recovery,
) -> Result<Replay, String> {
    refuse_other_state(report.t_l, state)?;
    let mut replay = Replay::default();
    for update in lacking(report, state).ok_or(NOT_KEPT)? {
        replay.bytes.extend_from_slice(&update.bytes);
        replay.replayed.push(replayed(update));
    }
    if replay.replayed.len() > config.replay_transactions {
        let updates = replay.replayed.len();
        return Err(format!("{updates} updates are to be replayed, more than recovery.replay_transactions"));
    }
    if replay.bytes.len() > config.replay_bytes {
        let bytes = replay.bytes.len();
        return Err(format!("updates of {bytes} bytes are to be replayed, more than recovery.replay_bytes"));
    }
    Ok(replay)
}

/// Backends that must not run this connection's updates: some of them ran there, and running them twice is not harmless.
pub(crate) fn barred(report: &ConnectionReport, state: AlternateState) -> &[SocketAddr] {
    match &report.updates {
        Some(updates) if runs_once(report, state) => &updates.ran_at,
        _ => &[],
    }
}

/// Something is to be replayed that an alternate must not be sent twice.
pub(crate) fn runs_once(report: &ConnectionReport, state: AlternateState) -> bool {
    lacking(report, state).is_some_and(|mut lacking| lacking.any(|update| !update.tags.idempotent))
}

/// `None`: nobody knows.
fn lacking(
    report: &ConnectionReport,
    state: AlternateState,
) -> Option<impl Iterator<Item = &AnsweredUpdate>> {
    let t_r = equations::t_r(report.t_l, state.t_a);
    let known = t_r > u64::from(report.t_l) || report.updates.is_some();
    let answered = report.updates.as_ref().map_or(&[][..], |updates| &updates.answered);
    let lacking = move |update: &&AnsweredUpdate| u64::from(update.ordinal) >= t_r && !update.tags.read_only;
    known.then(|| answered.iter().filter(lacking))
}

fn replayed(update: &AnsweredUpdate) -> Replayed {
    Replayed {
        name: format!("request {} ({})", update.ordinal, update.summary),
        request_bytes: update.bytes.len(),
        status: update.status,
        same: update.body.filter(|_| update.tags.deterministic),
    }
}

/// What has been applied at the alternate beyond T_L cannot be taken back.
fn refuse_other_state(t_l: u32, state: AlternateState) -> Result<(), String> {
    if state.t_s > state.t_a {
        return Err(format!(
            "the alternate contradicts itself: it has applied transaction {} (T_S), but its state ends with {} (T_A)",
            state.t_s, state.t_a
        ));
    }
    if state.t_s > t_l {
        return Err(format!("the alternate has applied transaction {}, beyond the log's {t_l}", state.t_s));
    }
    Ok(())
}
