// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Orders moves so that slots never overlap.
//!
//! A move waits for the slots that occupy its target. If moves wait for each
//! other in a cycle, one of their slots is deleted first and recreated last. The
//! fewest such slots are a smallest feedback vertex set. Finding one is hard in
//! general, so the search has a budget. A few BARs that a guest swaps are far
//! below it.

use std::collections::{BTreeMap, VecDeque};

/// A move of a slot of `size` bytes. In a list of trips, neither the current
/// addresses overlap, nor the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trip {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) size: u64,
}

/// The result, as indices of trips: the order of moves, and the trips whose slots
/// must be deleted first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) moves: Vec<usize>,
    pub(super) broken: Vec<usize>,
}

/// The number of trips that a search may still visit.
#[derive(Debug)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    /// Spends `steps`. Returns whether they were left.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Orders trips, and breaks cycles with as few deletions as the budget allows.
pub(super) fn order(trips: &[Trip], budget: &mut Budget) -> Order {
    if trips.len() < 2 {
        return Order {
            moves: (0..trips.len()).collect(),
            broken: Vec::new(),
        };
    }
    let waits = Waits::between(trips);
    let all: Vec<usize> = (0..trips.len()).collect();
    let mut removed = vec![false; trips.len()];
    let mut moves = waits.drain(&all, &mut removed);
    let mut broken = Vec::new();
    if moves.len() < trips.len() {
        let groups = waits.cycles(&removed);
        let mut outside = vec![true; trips.len()];
        for &index in groups.iter().flatten() {
            outside[index] = false;
        }
        for group in &groups {
            broken.extend(waits.fewest_breaks(group, &mut outside, budget));
        }
        broken.sort_unstable();
        removed.fill(false);
        for &index in &broken {
            removed[index] = true;
        }
        moves = waits.drain(&all, &mut removed);
    }
    Order { moves, broken }
}

/// The dependencies between trips.
struct Waits {
    /// For each trip, the trips that it waits for.
    waits_for: Vec<Vec<usize>>,
    /// For each trip, the trips that wait for it.
    awaited_by: Vec<Vec<usize>>,
}

impl Waits {
    fn between(trips: &[Trip]) -> Self {
        let mut waits = Self {
            waits_for: vec![Vec::new(); trips.len()],
            awaited_by: vec![Vec::new(); trips.len()],
        };
        let by_start: BTreeMap<u64, usize> = (0..trips.len()).map(|i| (trips[i].from, i)).collect();
        for (index, trip) in trips.iter().enumerate() {
            let below = by_start.range(..=trip.to + (trip.size - 1)).rev();
            // From high to low addresses, their ends decrease too.
            let there =
                below.take_while(|(start, other)| trip.to <= **start + (trips[**other].size - 1));
            for (_, &other) in there.filter(|(_, other)| **other != index) {
                waits.waits_for[index].push(other);
                waits.awaited_by[other].push(index);
            }
        }
        waits
    }

    /// Removes trips one by one while they can move. Returns them in that order.
    fn drain(&self, trips: &[usize], removed: &mut [bool]) -> Vec<usize> {
        let mut left: BTreeMap<usize, usize> = BTreeMap::new();
        let mut ready = VecDeque::new();
        for &index in trips.iter().filter(|index| !removed[**index]) {
            let waits_for = &self.waits_for[index];
            match waits_for.iter().filter(|other| !removed[**other]).count() {
                0 => ready.push_back(index),
                count => drop(left.insert(index, count)),
            }
        }
        let mut order = Vec::new();
        while let Some(index) = ready.pop_front() {
            removed[index] = true;
            order.push(index);
            for waiting in &self.awaited_by[index] {
                let Some(count) = left.get_mut(waiting) else {
                    continue;
                };
                *count -= 1;
                if *count == 0 {
                    ready.push_back(*waiting);
                }
            }
        }
        order
    }

    /// Groups the remaining trips into connected components, without trips that
    /// only wait for a cycle.
    fn cycles(&self, removed: &[bool]) -> Vec<Vec<usize>> {
        let mut seen = removed.to_vec();
        let mut candidates: Vec<usize> = (0..seen.len()).collect();
        while let Some(index) = candidates.pop() {
            if !seen[index] && self.awaited_by[index].iter().all(|other| seen[*other]) {
                seen[index] = true;
                candidates.extend(&self.waits_for[index]);
            }
        }
        let mut groups = Vec::new();
        for start in 0..seen.len() {
            let mut group = Vec::new();
            let mut open = vec![start];
            while let Some(index) = open.pop() {
                if !std::mem::replace(&mut seen[index], true) {
                    group.push(index);
                    open.extend(self.waits_for[index].iter().chain(&self.awaited_by[index]));
                }
            }
            if !group.is_empty() {
                group.sort_unstable();
                groups.push(group);
            }
        }
        groups
    }

    /// Finds the fewest trips of a group to delete so that the others can move.
    /// Trips in no group are `outside`.
    fn fewest_breaks(
        &self,
        group: &[usize],
        outside: &mut [bool],
        budget: &mut Budget,
    ) -> Vec<usize> {
        let quick = self.quick_breaks(group, outside);
        for count in 1..quick.len() {
            let mut chosen: Vec<usize> = (0..count).collect();
            loop {
                if !budget.spend(group.len()) {
                    return quick;
                }
                let breaks: Vec<usize> = chosen.iter().map(|&at| group[at]).collect();
                if self.can_move_without(group, &breaks, outside) {
                    return breaks;
                }
                if !next_choice(&mut chosen, group.len()) {
                    break;
                }
            }
        }
        quick
    }

    /// A heuristic: deletes the trips with the most dependencies first.
    fn quick_breaks(&self, group: &[usize], outside: &mut [bool]) -> Vec<usize> {
        let mut busiest = group.to_vec();
        busiest.sort_by_key(|&index| {
            std::cmp::Reverse(self.waits_for[index].len() * self.awaited_by[index].len())
        });
        let removed = outside;
        let mut breaks = Vec::new();
        for index in busiest {
            // A trip that no other trip waits for is in no cycle.
            if !removed[index] && self.awaited_by[index].iter().any(|other| !removed[*other]) {
                removed[index] = true;
                breaks.push(index);
                self.release(index, removed);
            }
        }
        reset(group, removed);
        breaks
    }

    /// Removes the trips that waited only for `index`, and then those that waited
    /// only for these.
    fn release(&self, index: usize, removed: &mut [bool]) {
        let mut open = self.awaited_by[index].clone();
        while let Some(index) = open.pop() {
            if !removed[index] && self.waits_for[index].iter().all(|other| removed[*other]) {
                removed[index] = true;
                open.extend(&self.awaited_by[index]);
            }
        }
    }

    fn can_move_without(&self, group: &[usize], breaks: &[usize], outside: &mut [bool]) -> bool {
        let removed = outside;
        for &index in breaks {
            removed[index] = true;
        }
        let moved = self.drain(group, removed).len();
        reset(group, removed);
        moved + breaks.len() == group.len()
    }
}

/// Restores a group after a search.
fn reset(group: &[usize], removed: &mut [bool]) {
    for &index in group {
        removed[index] = false;
    }
}

/// Steps to the next choice of some of `count` elements, in order; false after the
/// last one.
fn next_choice(chosen: &mut [usize], count: usize) -> bool {
    let len = chosen.len();
    for at in (0..len).rev() {
        if chosen[at] + (len - at) < count {
            chosen[at] += 1;
            for next in at + 1..len {
                chosen[next] = chosen[next - 1] + 1;
            }
            return true;
        }
    }
    false
}
