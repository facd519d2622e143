// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lookups on one thread while another thread works.
//!
//! On a busy machine the other thread does not always run, and the fastest
//! lookups are those without contention. So only lookups count during which the
//! other thread made progress.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lookups::{Fastest, SECTION, Section, TIMES};
use crate::machine::{Bars, STRIDE};
use crate::moves::move_one_bar;

/// Every address is looked up at most this many times.
const MAX_ROUNDS: usize = 400;
/// Every address is looked up this many times while the other thread works, if
/// it does.
const ENOUGH: usize = 100;
/// How many steps the other thread must make for a section of lookups to count.
const STEPS: u64 = 4;

/// The commits per second of a thread that does not commit constantly: more
/// than a guest causes with its BARs.
const RATE: u32 = 10_000;
/// How many times each address is looked up at a time next to such a thread, so
/// that each time there are some commits.
const PASSES: usize = 8;

/// A counter that another thread increments, and a flag that ends it.
#[derive(Default)]
pub struct Work {
    done: AtomicBool,
    steps: AtomicU64,
}

impl Work {
    fn goes_on(&self) -> bool {
        !self.done.load(Ordering::Relaxed)
    }

    fn step(&self) {
        // Only this thread writes the counter.
        let steps = self.steps.load(Ordering::Relaxed);
        self.steps.store(steps + 1, Ordering::Relaxed);
    }
}

/// The cost of lookups while another thread works.
pub struct Contended {
    /// Nanoseconds per lookup.
    pub ns: f64,
    /// Steps of the other thread per second.
    pub steps: f64,
}

/// The time of a lookup while another thread works, or `None` if the two hardly
/// ever ran at the same time.
pub fn time(
    addresses: &[u64],
    work: impl FnOnce(&Work) + Send,
    mut lookup: impl FnMut(u64) -> u64,
) -> Option<Contended> {
    let shared = Work::default();
    std::thread::scope(|scope| {
        scope.spawn(|| work(&shared));
        let mut fastest = Fastest::new(addresses);
        let (mut seconds, mut steps) = (0.0, 0);
        for _ in 0..MAX_ROUNDS {
            for (number, section) in addresses.chunks(SECTION).enumerate() {
                let before = shared.steps.load(Ordering::Relaxed);
                let took = Section::of(section, &mut lookup);
                let meanwhile = shared.steps.load(Ordering::Relaxed) - before;
                if meanwhile >= STEPS {
                    fastest.add(number, took);
                    seconds += took.seconds;
                    steps += meanwhile;
                }
            }
            if fastest.have_each(ENOUGH) {
                break;
            }
        }
        shared.done.store(true, Ordering::Relaxed);
        Some(Contended {
            ns: fastest.ns()?,
            steps: steps as f64 / seconds,
        })
    })
}

/// The time of a lookup next to a thread that works occasionally: of all
/// addresses together, because few lookups overlap with the work.
pub fn time_all(
    addresses: &[u64],
    work: impl FnOnce(&Work) + Send,
    mut lookup: impl FnMut(u64) -> u64,
) -> Contended {
    let shared = Work::default();
    std::thread::scope(|scope| {
        scope.spawn(|| work(&shared));
        let (mut fastest, mut seconds) = (f64::INFINITY, 0.0);
        let before = shared.steps.load(Ordering::Relaxed);
        for _ in 0..TIMES {
            let passes = (0..PASSES).map(|_| Section::of(addresses, &mut lookup).seconds);
            let took: f64 = passes.sum();
            seconds += took;
            fastest = fastest.min(took);
        }
        let steps = shared.steps.load(Ordering::Relaxed) - before;
        shared.done.store(true, Ordering::Relaxed);
        Contended {
            ns: fastest * 1e9 / (addresses.len() * PASSES) as f64,
            steps: steps as f64 / seconds,
        }
    })
}

/// Moves the first BAR after all others, and back.
pub fn move_to_and_fro(machine: &mut Bars, count: u64) {
    for to in [count * STRIDE, 0] {
        move_one_bar(&mut machine.model, machine.bars[0], to);
    }
}

/// Moves the first BAR at the rate [`RATE`].
pub fn commit_now_and_then(machine: &mut Bars, count: u64, work: &Work) {
    let start = Instant::now();
    let mut done = 0;
    let due = |done| Duration::from_secs(1) / RATE * done;
    commit_when(machine, count, work, || {
        let now = start.elapsed() >= due(done);
        done += u32::from(now);
        now
    });
}

/// Moves the first BAR constantly.
pub fn commit(machine: &mut Bars, count: u64, work: &Work) {
    commit_when(machine, count, work, || true);
}

fn commit_when(machine: &mut Bars, count: u64, work: &Work, mut is_due: impl FnMut() -> bool) {
    let bar = machine.bars[0];
    let mut there = true;
    while work.goes_on() {
        if !is_due() {
            std::hint::spin_loop();
            continue;
        }
        let to = if there { count * STRIDE } else { 0 };
        move_one_bar(&mut machine.model, bar, to);
        there = !there;
        work.step();
    }
}
