// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks what a running guest sees of a commit: in small worlds every access, in
//! every interleaving with every commit, whether the commit succeeds, is refused at
//! any operation, or is refused by another listener.
//!
//! An access has up to three steps: the processor reaches memory or exits, the vCPU
//! thread looks up the exit, and answers it. A commit has a step for each ioctl and
//! for each change of the readers' view. A move is not one step on every kernel, so
//! it has another step in its middle. The observer records all possible results of an
//! access between two steps of the commit. The tests check every combination.
//!
//! A thread that looks up its exit late, after a commit that began meanwhile, gets the
//! new answer. Memory that only the guest can reach has none, so there threads count as
//! in the guest until they have looked up the exit, as `HoldVcpus::hold` requires.

mod commit;
mod observer;
mod stepped;
mod world;

use observer::{Access, Found, Point, Reached};
use world::{Fail, State, Tally, What, World};

/// Runs every commit from every state to every other one: unchanged, refused at each
/// call, and refused by listeners before and after the slots.
fn explore(whats: &[What], places: &[&[u64]]) -> Tally {
    let mut states: Vec<State> = vec![Vec::new()];
    for places in places {
        let nowhere_too = places.iter().map(|page| Some(*page)).chain([None]);
        let nowhere_too: Vec<_> = nowhere_too.collect();
        states = states
            .iter()
            .flat_map(|state| {
                let longer = nowhere_too.iter().map(|place| {
                    let mut state = state.clone();
                    state.push(*place);
                    state
                });
                longer.collect::<Vec<_>>()
            })
            .collect();
    }
    let mut world = World::new(whats);
    let mut tally = Tally::default();
    let nowhere = vec![None; whats.len()];
    for from in &states {
        world.go(&nowhere, from);
        for to in &states {
            for fail in [Fail::Other(0), Fail::Other(1), Fail::Apply] {
                if !world.watch(from, to, Some(fail), &mut tally) {
                    world.go(to, from);
                }
            }
            let calls = (0..).take_while(|&call| {
                let refused = world.watch(from, to, Some(Fail::Call(call)), &mut tally);
                if !refused {
                    world.go(to, from);
                }
                refused
            });
            let _ = calls.count();
        }
        world.go(from, &nowhere);
    }
    tally
}

#[test]
fn a_guest_sees_of_ram_and_devices_only_the_old_and_the_new() {
    let whats = [What::Ram(2), What::Ram(1), What::Mmio];
    let tally = explore(&whats, &[&[0, 1, 2], &[0, 1, 3], &[1, 2]]);
    eprintln!("{tally:?}");
    assert!(tally.refused > 1000 && tally.interleavings > 100_000);
}

#[test]
fn a_guest_sees_of_private_mmio_only_the_old_and_the_new() {
    let whats = [What::Ram(2), What::PrivateMmio, What::Mmio];
    let tally = explore(&whats, &[&[0, 1], &[0, 1, 2, 3], &[1, 2]]);
    eprintln!("{tally:?}");
    assert!(tally.refused > 1000 && tally.interleavings > 100_000);
}

#[test]
fn a_guest_sees_of_rom_only_the_old_and_the_new() {
    let whats = [What::Rom(2), What::Ram(1), What::Rom(1)];
    let tally = explore(&whats, &[&[0, 1, 2], &[0, 1, 3], &[0, 3]]);
    eprintln!("{tally:?}");
    assert!(tally.refused > 1000 && tally.interleavings > 100_000);
}

#[test]
fn a_guest_never_exits_at_private_mmio_that_is_added_or_removed() {
    let mut world = World::new(&[What::PrivateMmio]);
    let (nowhere, there) = (vec![None], vec![Some(1)]);
    for (from, to) in [(&nowhere, &there), (&there, &nowhere)] {
        let (result, points) = world.observe(from, to);
        result.unwrap();
        let load = Access::Load as usize;
        let unanswered = |point: &Point| {
            let exits = point.reached[1][load] == Reached::Exit;
            exits && point.found[1][load] == Found::NoAnswer
        };
        // While the slot is deleted and the view unchanged, no vCPU is in the guest.
        let mut all = points.iter().filter(|point| unanswered(point)).peekable();
        assert_eq!(all.peek().is_some(), from == &there);
        assert!(all.all(|point| point.held));
        // Nor is one whose exit is from before when the new view is published.
        assert!(points.iter().any(|point| point.held));
    }
}
