// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Regression tests: changes that a running guest once saw half done.

use std::time::Instant;

use super::changes::{BEYOND, IN_THE_WAY, Step, World};
use super::{Tally, runs_for, with_vcpus};

/// A test.
type Test = fn() -> Result<(), String>;

/// The tests by name.
pub const TESTS: [(&str, Test); 3] = [
    ("no_exit_at_ram_of_refused_commits", refused_commits),
    (
        "no_exit_at_direct_ram_when_mmio_covers_it",
        mmio_over_live_ram,
    ),
    (
        "no_exit_at_ram_that_moves_by_less_than_its_size",
        moves_onto_itself,
    ),
];

/// The number of changes of each kind, on a machine that is fast enough.
const CHANGES: u64 = 500;

/// The RAM of eight pages is alone at all guest pages except the last few.
fn ram_alone(world: &mut World) -> Result<(), String> {
    let hide = (1..world.regions.len()).map(|n| Step::Show(n, false));
    let mut steps: Vec<Step> = hide.collect();
    steps.push(Step::Move(0, 0));
    world.commit(&steps)?.map_err(|error| error.to_string())
}

/// Removes RAM and adds a region that KVM or the planner refuses.
fn refused_commits() -> Result<(), String> {
    for page in [IN_THE_WAY, BEYOND] {
        let mut world = World::new()?;
        ram_alone(&mut world)?;
        let tally = with_vcpus(&mut world, 1, |world| {
            let start = Instant::now();
            for _ in (0..CHANGES).take_while(|_| start.elapsed() < runs_for() / 2) {
                let steps = [
                    Step::Show(0, false),
                    Step::Show(3, true),
                    Step::Move(3, page),
                ];
                if world.commit(&steps)?.is_ok() {
                    return Err("the commit was not refused".into());
                }
            }
            Ok(Tally::default())
        })?;
        no_direct(tally)?;
    }
    Ok(())
}

fn mmio_over_live_ram() -> Result<(), String> {
    let mut world = World::new()?;
    ram_alone(&mut world)?;
    let tally = with_vcpus(&mut world, 2, |world| {
        changes(world, |change| {
            [Step::Move(4, change % 8), Step::Show(4, change % 3 > 0)]
        })
    })?;
    no_direct(tally)
}

fn moves_onto_itself() -> Result<(), String> {
    let mut world = World::new()?;
    ram_alone(&mut world)?;
    let tally = with_vcpus(&mut world, 1, |world| {
        changes(world, |change| [Step::Move(0, change % 8)])
    })?;
    no_direct(tally)
}

/// Makes changes one after another.
fn changes<const N: usize>(
    world: &mut World,
    steps: impl Fn(u64) -> [Step; N],
) -> Result<Tally, String> {
    let start = Instant::now();
    let numbers = (0..CHANGES).take_while(|_| start.elapsed() < runs_for());
    for number in numbers {
        let made = world.commit(&steps(number))?;
        made.map_err(|error| error.to_string())?;
    }
    Ok(Tally::default())
}

/// Requires that no exit was at memory that the guest reaches directly.
fn no_direct(tally: Tally) -> Result<(), String> {
    match tally.direct {
        0 => Ok(()),
        exits => Err(format!("{exits} exits at RAM: {tally:?}")),
    }
}
