//! Runs of the whole system, drawn by lot. `SIM_SEEDS=N` runs N seeds from `SIM_FIRST` on, `SIM_FAILURES=N` goes on until N
//! have failed; `SIM_SEED=S` replays one and tells its story.

use sim::run;
use sim::world::Tally;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn replay(seed: u64) {
    match run::seed(seed, true) {
        Ok((_, story)) => story.iter().for_each(|line| println!("{line}")),
        Err(failed) => {
            failed.story.iter().for_each(|line| println!("{line}"));
            panic!("seed {seed}: {}", failed.why);
        }
    }
}

#[test]
fn every_seed_holds() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let seeds = number("SIM_SEEDS").unwrap_or(300);
    let most = number("SIM_FAILURES").unwrap_or(1) as usize;
    let (mut tally, mut failed) = (Tally::default(), Vec::new());
    for seed in first..first + seeds {
        match run::seed(seed, false) {
            Ok((more, _)) => tally.add(more),
            Err(failure) => {
                println!("seed {seed}: {}", failure.why);
                println!("  SIM_SEED={seed} cargo test -p sim --test seeds -- --nocapture");
                failed.push(seed);
            }
        }
        if failed.len() >= most {
            break;
        }
    }
    println!("{seeds} seeds from {first}: {tally:#?}");
    assert!(failed.is_empty(), "failed: {failed:?}");
}
