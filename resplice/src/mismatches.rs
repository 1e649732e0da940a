//! `resplice mismatches`: what alternates answered differently.

use std::path::Path;

use anyhow::bail;
use cluster::control::{Mismatch, Mismatches, ToManager};
use cluster::runtime::Runtime;
use serde_json::json;

use crate::Outcome;
use crate::ask::{Answer, PATIENCE, ask};
use crate::table::{mask, table};
use crate::text::duration;

/// Asks the recovery manager of this node.
pub(crate) fn mismatches(run_dir: &Path, as_json: bool, now_ms: u64) -> Outcome {
    let socket = Runtime::new(run_dir).socket("recovery-manager");
    let found: Mismatches = match ask(&socket, &ToManager::Mismatches, PATIENCE, Some) {
        Answer::Got(found) => found,
        Answer::Failed(why) => bail!("recovery-manager: {why}"),
        Answer::NotRunning => bail!(
            "recovery-manager does not run in {}: run this on a proxy, or name --run-dir DIR",
            run_dir.display()
        ),
    };
    Ok((if as_json { in_json(&found)? } else { in_words(&found, now_ms) }, true))
}

fn in_words(found: &Mismatches, now_ms: u64) -> String {
    if found.kinds.is_empty() {
        return "No alternate answered differently.".to_owned();
    }
    let mut kinds: Vec<_> = found.kinds.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let rows: Vec<_> = kinds.into_iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]).collect();
    let last: String = found.last.iter().rev().map(|mismatch| story(mismatch, now_ms)).collect();
    format!("By kind of request\n{}\nLast ones, newest first\n{last}", table(&["kind", "count"], &rows))
}

/// The differing byte is the first one behind the `>`.
fn story(mismatch: &Mismatch, now_ms: u64) -> String {
    let Mismatch { at_ms, flow, alternate, request, kind: _, position, before, logged, sent } = mismatch;
    let ago = duration(now_ms.saturating_sub(*at_ms).saturating_mul(1000));
    let side = |bytes: &[u8]| match bytes {
        [] => "(not kept)".to_owned(),
        bytes => format!("\"{}\" > \"{}\"", before.escape_ascii(), bytes.escape_ascii()),
    };
    let lines = [
        format!("{ago} ago, {request}"),
        format!("  client {}  backend {} -> {alternate}", flow.client, flow.backend),
        format!("  response byte {position}"),
        format!("    sent to the client  {}", side(logged)),
        format!("    from the alternate  {}", side(sent)),
    ];
    lines.iter().map(|line| format!("  {}\n", mask(line))).collect::<Vec<_>>().concat()
}

fn in_json(found: &Mismatches) -> anyhow::Result<String> {
    let mismatch = |mismatch: &Mismatch| {
        json!({
            "at_ms": mismatch.at_ms,
            "client": mismatch.flow.client,
            "failed": mismatch.flow.backend,
            "alternate": mismatch.alternate,
            "request": mismatch.request,
            "kind": mismatch.kind,
            "position": mismatch.position,
            "before": mismatch.before.escape_ascii().to_string(),
            "sent_to_client": mismatch.logged.escape_ascii().to_string(),
            "from_alternate": mismatch.sent.escape_ascii().to_string(),
        })
    };
    let last: Vec<_> = found.last.iter().map(mismatch).collect();
    Ok(serde_json::to_string_pretty(&json!({"kinds": found.kinds, "mismatches": last}))?)
}
