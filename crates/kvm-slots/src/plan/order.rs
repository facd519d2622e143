// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! In which order slots can move without ever overlapping.
//!
//! A slot waits for those that are still where it is to go. Where they wait for
//! each other in a circle, one of them is deleted first and made anew last. To
//! take out the fewest is to find a smallest feedback vertex set. That is
//! hard in general, so it is searched for within a budget. What a guest can
//! bring about, a few BARs that change places, is far below it.

use std::collections::{BTreeMap, VecDeque};

/// A slot of `size` bytes that is to go from one address to another. No two of
/// a list overlap where they are, nor where they are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trip {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) size: u64,
}

/// The trips by their index in the list: in which order they work, and which
/// have to be taken out first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) moves: Vec<usize>,
    pub(super) broken: Vec<usize>,
}

/// How many steps a search may take, in looks at one trip.
#[derive(Debug)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    /// Whether `steps` are left; they are spent then.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Orders trips, and breaks circles: as few as possible if the budget lasts.
pub(super) fn order(trips: &[Trip], budget: &mut Budget) -> Order {
    if trips.len() < 2 {
        return Order {
            moves: (0..trips.len()).collect(),
            broken: Vec::new(),
        };
    }
    let waits = Waits::between(trips);
    let all: Vec<usize> = (0..trips.len()).collect();
    let mut gone = vec![false; trips.len()];
    let mut moves = waits.drain(&all, &mut gone);
    let mut broken = Vec::new();
    if moves.len() < trips.len() {
        let groups = waits.circles(&gone);
        let mut outside = vec![true; trips.len()];
        for &index in groups.iter().flatten() {
            outside[index] = false;
        }
        for group in &groups {
            broken.extend(waits.fewest_breaks(group, &mut outside, budget));
        }
        broken.sort_unstable();
        gone.fill(false);
        for &index in &broken {
            gone[index] = true;
        }
        moves = waits.drain(&all, &mut gone);
    }
    Order { moves, broken }
}

/// Who waits for whom.
struct Waits {
    /// Those that a trip waits for.
    for_whom: Vec<Vec<usize>>,
    /// Those that wait for it.
    by_whom: Vec<Vec<usize>>,
}

impl Waits {
    fn between(trips: &[Trip]) -> Self {
        let mut waits = Self {
            for_whom: vec![Vec::new(); trips.len()],
            by_whom: vec![Vec::new(); trips.len()],
        };
        let by_start: BTreeMap<u64, usize> = (0..trips.len()).map(|i| (trips[i].from, i)).collect();
        for (index, trip) in trips.iter().enumerate() {
            let below = by_start.range(..=trip.to + (trip.size - 1)).rev();
            // Downwards they also end ever lower.
            let there =
                below.take_while(|(start, other)| trip.to <= **start + (trips[**other].size - 1));
            for (_, &other) in there.filter(|(_, other)| **other != index) {
                waits.for_whom[index].push(other);
                waits.by_whom[other].push(index);
            }
        }
        waits
    }

    /// Lets those of `trips` go that can, one after the other, in that order.
    fn drain(&self, trips: &[usize], gone: &mut [bool]) -> Vec<usize> {
        let mut left: BTreeMap<usize, usize> = BTreeMap::new();
        let mut ready = VecDeque::new();
        for &index in trips.iter().filter(|index| !gone[**index]) {
            let waits_for = &self.for_whom[index];
            match waits_for.iter().filter(|other| !gone[**other]).count() {
                0 => ready.push_back(index),
                count => drop(left.insert(index, count)),
            }
        }
        let mut order = Vec::new();
        while let Some(index) = ready.pop_front() {
            gone[index] = true;
            order.push(index);
            for waiting in &self.by_whom[index] {
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

    /// Those that are left, without those that only wait for a circle, in
    /// groups that have nothing to do with each other.
    fn circles(&self, gone: &[bool]) -> Vec<Vec<usize>> {
        let mut seen = gone.to_vec();
        let mut unwanted: Vec<usize> = (0..seen.len()).collect();
        while let Some(index) = unwanted.pop() {
            if !seen[index] && self.by_whom[index].iter().all(|other| seen[*other]) {
                seen[index] = true;
                unwanted.extend(&self.for_whom[index]);
            }
        }
        let mut groups = Vec::new();
        for start in 0..seen.len() {
            let mut group = Vec::new();
            let mut open = vec![start];
            while let Some(index) = open.pop() {
                if !std::mem::replace(&mut seen[index], true) {
                    group.push(index);
                    open.extend(self.for_whom[index].iter().chain(&self.by_whom[index]));
                }
            }
            if !group.is_empty() {
                group.sort_unstable();
                groups.push(group);
            }
        }
        groups
    }

    /// The fewest of a group without which the others can go. Whoever is in no
    /// group is `outside`.
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
                if self.can_go_without(group, &breaks, outside) {
                    return breaks;
                }
                if !next_choice(&mut chosen, group.len()) {
                    break;
                }
            }
        }
        quick
    }

    /// Breaks those first that most wait for and that wait for most.
    fn quick_breaks(&self, group: &[usize], outside: &mut [bool]) -> Vec<usize> {
        let mut busiest = group.to_vec();
        busiest.sort_by_key(|&index| {
            std::cmp::Reverse(self.for_whom[index].len() * self.by_whom[index].len())
        });
        let gone = outside;
        let mut breaks = Vec::new();
        for index in busiest {
            // Whom nobody waits for any more is in no circle.
            if !gone[index] && self.by_whom[index].iter().any(|other| !gone[*other]) {
                gone[index] = true;
                breaks.push(index);
                self.release(index, gone);
            }
        }
        reset(group, gone);
        breaks
    }

    /// Lets those go that waited only for `index`, and whom they set free.
    fn release(&self, index: usize, gone: &mut [bool]) {
        let mut open = self.by_whom[index].clone();
        while let Some(index) = open.pop() {
            if !gone[index] && self.for_whom[index].iter().all(|other| gone[*other]) {
                gone[index] = true;
                open.extend(&self.by_whom[index]);
            }
        }
    }

    fn can_go_without(&self, group: &[usize], breaks: &[usize], outside: &mut [bool]) -> bool {
        let gone = outside;
        for &index in breaks {
            gone[index] = true;
        }
        let went = self.drain(group, gone).len();
        reset(group, gone);
        went + breaks.len() == group.len()
    }
}

/// Puts a group back to where it was before a search.
fn reset(group: &[usize], gone: &mut [bool]) {
    for &index in group {
        gone[index] = false;
    }
}

/// The next way to choose some of `count` things, in order; false behind the
/// last one.
fn next_choice(chosen: &mut [usize], count: usize) -> bool {
    let many = chosen.len();
    for at in (0..many).rev() {
        if chosen[at] + (many - at) < count {
            chosen[at] += 1;
            for behind in at + 1..many {
                chosen[behind] = chosen[behind - 1] + 1;
            }
            return true;
        }
    }
    false
}
