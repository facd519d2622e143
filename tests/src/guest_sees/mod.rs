// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What running vCPUs see of commits, on the real KVM: the old memory, the new
//! memory, and nothing else. The vCPUs load, store and fetch instructions all
//! over memory, and check every answer. Meanwhile another thread makes changes
//! of every kind. Some succeed; others are refused at each operation, by KVM
//! itself, or by other listeners.

mod changes;
mod code;
mod faulty;
mod machine;
mod regressions;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use changes::{APPLY, BEYOND, IN_THE_WAY, NEVER, PREPARE, Step, World};
use code::Word;
use machine::line;

use crate::random::Random;

pub use regressions::TESTS;

/// How many seconds each test runs.
static SECONDS: AtomicU64 = AtomicU64::new(2);
/// The numbers of vCPUs that the main test runs with.
pub const NUMBERS: [u64; 3] = [1, 2, 4];

/// Sets how many seconds later tests run.
pub fn set_seconds(seconds: u64) {
    SECONDS.store(seconds, Ordering::Relaxed);
}

/// How long each test runs.
fn runs_for() -> Duration {
    Duration::from_secs(SECONDS.load(Ordering::Relaxed))
}

/// The numbers of commits, accesses and exits.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    made: u64,
    refused: u64,
    loads: u64,
    stores: u64,
    fetches: u64,
    unchecked: u64,
    exits: u64,
    direct: u64,
}

/// vCPUs access all of memory while changes of every kind are made.
///
/// # Errors
/// The wrong answer that a vCPU found.
pub fn only_the_old_and_the_new(vcpus: u64, progress: &dyn Fn(String)) -> Result<(), String> {
    let mut world = World::new()?;
    let tally = with_vcpus(&mut world, vcpus, |world| {
        let mut tally = Tally::default();
        let mut random = Random(0x5eed_0000 + vcpus);
        let start = Instant::now();
        while start.elapsed() < runs_for() {
            match change(world, &mut random)? {
                true => tally.made += 1,
                false => tally.refused += 1,
            }
        }
        Ok(tally)
    })?;
    progress(format!(
        "{} commits and {} refused ones; {} loads, {} stores, {} fetches, {} of them over \
         several commits; {} exits, {} at what the view calls direct",
        tally.made,
        tally.refused,
        tally.loads,
        tally.stores,
        tally.fetches,
        tally.unchecked,
        tally.exits,
        tally.direct,
    ));
    let kinds = [
        tally.made,
        tally.refused,
        tally.loads,
        tally.stores,
        tally.fetches,
    ];
    match kinds.iter().all(|kind| *kind > 0) {
        true => Ok(()),
        false => Err(format!("something was not tried: {tally:?}")),
    }
}

/// Makes one change of several steps. Returns whether it succeeded.
fn change(world: &mut World, random: &mut Random) -> Result<bool, String> {
    let steps = 1 + random.below(3);
    let mut steps: Vec<Step> = (0..steps).map(|_| Step::random(random)).collect();
    let (mut when, mut after) = (NEVER, usize::MAX);
    let (mut last, steps) = (NEVER, &mut steps);
    match random.below(12) {
        0 => when = PREPARE,
        1 => last = APPLY,
        2 => after = 0,
        3 => after = 1,
        4 => after = 2,
        5 => after = 3,
        // A slot that is not in the model, and memory that the guest cannot
        // reach.
        6 => steps.push(Step::Move(3, IN_THE_WAY)),
        7 => steps.push(Step::Move(3, BEYOND)),
        8 => last = PREPARE,
        _ => {}
    }
    world.refuses.when.store(when, Ordering::SeqCst);
    world.refuses_last.when.store(last, Ordering::SeqCst);
    world.machine.vm.refuse_after(after);
    let made = world.commit(steps)?;
    world.refuses.when.store(NEVER, Ordering::SeqCst);
    world.refuses_last.when.store(NEVER, Ordering::SeqCst);
    world.machine.vm.refuse_after(usize::MAX);
    Ok(made.is_ok())
}

/// Calls `change` while vCPUs run, and counts what they did.
fn with_vcpus(
    world: &mut World,
    vcpus: u64,
    change: impl FnOnce(&mut World) -> Result<Tally, String>,
) -> Result<Tally, String> {
    let all: Result<Vec<_>, String> = (0..vcpus).map(|n| world.machine.vcpu(n)).collect();
    let gate = world.machine.gate.clone();
    let refuses = world.refuses.clone();
    world.wait_for(vcpus);
    let (mut tally, ran) = thread::scope(|scope| {
        let threads = all?.into_iter().map(|mut vcpu| {
            let (gate, refuses) = (gate.clone(), refuses.clone());
            scope.spawn(move || {
                let result = vcpu.run();
                if result.is_err() {
                    // End the other threads, which must not wait for this one.
                    refuses.vcpu_ended();
                    gate.stop();
                }
                (vcpu.exits, vcpu.direct, result)
            })
        });
        let threads: Vec<_> = threads.collect();
        let changed = change(world);
        gate.stop();
        let ran: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        // The guest's finding takes precedence: it ended the other threads.
        let mut all = Vec::new();
        for vcpu in ran {
            let (exits, direct, result) = vcpu.map_err(|_| "a vCPU thread panicked")?;
            result?;
            all.push((exits, direct));
        }
        Ok::<_, String>((changed?, all))
    })?;
    for (number, (exits, direct)) in (0..vcpus).zip(ran) {
        let own = &world.machine.own;
        let count = |word| own.word(line(number, word)).load(Ordering::SeqCst);
        tally.loads += count(Word::Loads);
        tally.stores += count(Word::Stores);
        tally.fetches += count(Word::Fetches);
        tally.unchecked += count(Word::Unchecked);
        tally.exits += exits;
        tally.direct += direct;
    }
    Ok(tally)
}
