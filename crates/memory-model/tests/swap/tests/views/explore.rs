// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running a scenario in many interleavings of its threads.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

/// How much happens in a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How many changes are committed.
    pub changes: u64,
    /// How many threads read.
    pub readers: usize,
    /// How often each of them looks.
    pub looks: usize,
}

/// Too large to try every interleaving.
const LARGE: Size = Size {
    changes: 4,
    readers: 3,
    looks: 5,
};

/// Small enough for all of them.
const SMALL: Size = Size {
    changes: 1,
    readers: 1,
    looks: 3,
};

/// Interleavings of the large one, for each way to choose them.
const RUNS: usize = 300;
/// Above all interleavings of the small one.
const ALL_RUNS: usize = 50_000;
/// How often a thread is preempted where another would have gone on.
const PREEMPTIONS: usize = 3;
/// What fails here fails everywhere.
const SEED: u64 = 0x5eed;

/// The generations that readers saw, in all interleavings together.
pub type Seen = Arc<Mutex<BTreeSet<u64>>>;

/// Runs the large scenario in random interleavings and in those with few
/// preemptions, and the small one in every interleaving. Returns what readers
/// saw in the large one and in the small one.
pub fn explore(scenario: fn(Size, &Seen)) -> [Vec<u64>; 2] {
    let (large, small) = (Seen::default(), Seen::default());
    let random = RandomScheduler::new_from_seed(SEED, RUNS);
    run(random, LARGE, scenario, &large);
    let few = PctScheduler::new_from_seed(SEED, PREEMPTIONS, RUNS);
    run(few, LARGE, scenario, &large);
    let every = DfsScheduler::new(Some(ALL_RUNS), false);

    let runs = run(every, SMALL, scenario, &small);
    assert!(runs < ALL_RUNS, "there are more interleavings than {runs}");
    [large, small].map(|seen| seen.lock().unwrap().iter().copied().collect())
}

/// Every generation, if all changes are made and readers see each.
pub fn all_generations() -> [Vec<u64>; 2] {
    [LARGE, SMALL].map(|size| (0..=size.changes).collect())
}

fn run(
    scheduler: impl Scheduler + 'static,
    size: Size,
    scenario: fn(Size, &Seen),
    seen: &Seen,
) -> usize {
    let mut config = Config::new();
    // Unoptimised code fills the default of 32 KiB.
    config.stack_size = 1 << 18;
    let seen = seen.clone();
    Runner::new(scheduler, config).run(move || scenario(size, &seen))
}
