// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moving one BAR among many, as a transaction with a listener.

use std::hint::black_box;
use std::sync::Arc;

use memory_model::{Listener, ListenerError, MemoryModel, RegionId, Update};

use crate::machine::{Bars, Random, STRIDE};

/// Visits each difference, as a listener without work would.
struct Idle;

impl Listener<()> for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
        black_box((update.diff.removed.len(), update.diff.added.len()));
        Ok(())
    }
}

/// Moves the BAR in the middle back and forth, `times` times.
pub fn run(bars: u64, times: u64) {
    to_and_fro(&mut machine(bars), bars, times);
}

/// Moves random BARs to random free places, `times` times, after as many
/// uncounted moves, and at least as many as there are BARs.
pub fn scattered(bars: u64, times: u64) {
    let mut machine = machine(bars);
    // Every second place is free.
    let mut free: Vec<u64> = (bars..2 * bars).map(|n| n * STRIDE).collect();
    let mut at: Vec<u64> = (0..bars).map(|n| n * STRIDE).collect();
    let mut random = Random::default();
    let mut any = || usize::try_from(random.below(bars)).unwrap_or(0);
    for time in 0..bars.max(times) + times {
        let (bar, place) = (any(), any());
        let (from, to) = (at[bar], free[place]);
        match time < bars.max(times) {
            true => move_one(&mut machine.model, machine.bars[bar], to),
            false => move_one_bar(&mut machine.model, machine.bars[bar], to),
        }
        (at[bar], free[place]) = (to, from);
    }
}

/// Adds a listener to BARs.
fn machine(bars: u64) -> Bars {
    let mut machine = Bars::new(bars);
    follow(&mut machine);
    machine
}

/// Adds a listener without work.
pub fn follow(machine: &mut Bars) {
    let idle = Arc::new(Idle);
    let following = machine.model.add_listener(machine.space, 0, idle);
    following.expect("an idle listener refuses nothing");
}

/// Moves the BAR in the middle after all others, and back.
pub fn to_and_fro(machine: &mut Bars, bars: u64, times: u64) {
    let bar = machine.bars[machine.bars.len() / 2];
    let here = bars / 2 * STRIDE;
    let there = bars * STRIDE + STRIDE;
    for time in 0..times {
        let to = if time % 2 == 0 { there } else { here };
        move_one_bar(&mut machine.model, bar, to);
    }
}

/// Everything that is counted.
#[inline(never)]
pub fn move_one_bar(model: &mut MemoryModel, bar: RegionId, to: u64) {
    move_one(model, bar, to);
}

#[inline(always)]
fn move_one(model: &mut MemoryModel, bar: RegionId, to: u64) {
    let mut transaction = model.transaction();
    transaction.move_to(bar, to).expect("it is placed");
    transaction.commit().expect("no listener refuses");
}
