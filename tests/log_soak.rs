//! `scripts/bench soak` in small: the ring is written over several times by connections of all kinds, and the log has every
//! byte that their ends have. One reader that is lapped on purpose accounts for exactly what it lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::bench::soak::{Plan, run};

#[test]
fn the_log_has_every_byte_however_often_the_ring_is_written_over() -> Result<()> {
    let plan =
        Plan { ring_bytes: 32 << 20, connections: 8, most: 16 << 20, ..Plan::new(Duration::from_secs(3)) };
    let verdict = run(&format!("t{}-w", std::process::id()), &plan, &mut |_| ())?;
    ensure!(verdict.turns > 3.0 && verdict.connections > 20, "not much of a test: {verdict:?}");
    ensure!(verdict.lost == 0 && verdict.ends_differ == 0 && verdict.conflicts == 0, "{verdict:?}");
    ensure!(verdict.laps > 0 && verdict.lapped_bytes > 0, "the slow reader was not lapped: {verdict:?}");
    ensure!(verdict.records_off == 0 && verdict.bytes_off == 0, "{verdict:?}");
    // Readers may starve on a busy machine, but they do not all the time.
    ensure!(verdict.unread < verdict.bytes, "no eager reader kept up: {verdict:?}");
    Ok(())
}
