//! One seed, one run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::world::{Tally, World};

/// A run that did not end as it must.
#[derive(Debug)]
pub struct Failed {
    pub why: String,
    /// What happened, in order, if that was wanted; and how far everybody came.
    pub story: Vec<String>,
}

/// Runs what `seed` means.
pub fn seed(seed: u64, trace: bool) -> Result<(Tally, Vec<String>), Failed> {
    finish(World::new(seed, trace))
}

/// Runs a scenario of one's own making; if it fails, once more, to tell the story.
pub fn scenario(scenario: &Scenario) -> Result<World, Failed> {
    let mut world = World::of(scenario.clone(), Rng::new(7), false);
    match world.run() {
        Ok(()) => Ok(world),
        Err(why) => {
            let story =
                finish(World::of(scenario.clone(), Rng::new(7), true)).err().map(|failed| failed.story);
            Err(Failed { why, story: story.unwrap_or_default() })
        }
    }
}

fn finish(mut world: World) -> Result<(Tally, Vec<String>), Failed> {
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| Err("panic".to_owned()));
    let mut story = Vec::new();
    if let Some(trace) = world.trace.take() {
        story.push(format!("{:#?}", world.scenario));
        story.extend(trace);
        story.extend(world.ending());
    }
    match outcome {
        Ok(()) => Ok((world.tally, story)),
        Err(why) => Err(Failed { why, story }),
    }
}
