// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pairs current slots with new ranges: the slots that stay or move. The others
//! are deleted or created.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use super::op::Op;
use super::order::{self, Budget, Order, Trip};
use crate::range::{SlotAccess, SlotBacking, SlotRange};
use crate::slots::slot::Slot;

/// The limit of the search for the shortest plan: some milliseconds. Only changes
/// that are designed to be hard need more.
const BUDGET: usize = 1 << 16;

/// The operations of a plan. New slots have no numbers yet.
#[derive(Debug)]
pub(super) struct Pairs {
    pub(super) deletes: Vec<Slot>,
    /// In an order in which each target is free.
    pub(super) moves: Vec<(Slot, Slot)>,
    pub(super) flags: Vec<Op>,
    pub(super) creates: Vec<SlotRange>,
}

/// Finds the fewest operations that lead from the slots `old`, by address, to
/// `new`.
pub(super) fn pair(mut old: BTreeMap<u64, &Slot>, mut new: Vec<SlotRange>) -> Pairs {
    let flags = match_in_place(&mut old, &mut new);
    let mut lists = Lists::new(old, new);
    let groups = lists.groups();
    let (matching, order) = best(&lists, &groups, &mut Budget(BUDGET));

    let partners: Vec<(usize, usize)> = partners(&groups, &matching).collect();
    let mut moves = Vec::with_capacity(order.moves.len());
    for index in order.moves {
        let (old, new) = partners[index];
        if let (Some(slot), Some(range)) = (lists.old[old].1.take(), lists.new[new].1.take()) {
            let id = slot.id;
            moves.push((slot.clone(), Slot { id, range }));
        }
    }
    // Slots and ranges without a partner, or whose pair was in a cycle.
    // `extend`, because `collect` would reuse and shrink the lists' memory.
    let (mut deletes, mut creates) = (Vec::new(), Vec::new());
    deletes.extend(lists.old.iter().filter_map(|(_, slot)| slot.cloned()));
    deletes.sort_by_key(|slot| slot.gpa());
    creates.extend(lists.new.into_iter().filter_map(|(_, range)| range));
    Pairs {
        deletes,
        moves,
        flags,
        creates,
    }
}

/// Pairs slots that stay in place. Returns the operations for those that change
/// their logging.
fn match_in_place(old: &mut BTreeMap<u64, &Slot>, new: &mut Vec<SlotRange>) -> Vec<Op> {
    let mut flags = Vec::new();
    new.retain(|range| {
        let Some(&slot) = old.get(&range.gpa()) else {
            return true;
        };
        let same_flags = slot.log_dirty() == range.log_dirty();
        if !range.is_same_memory(&slot.range) || !(same_flags || slot.is_mutable()) {
            return true;
        }
        old.remove(&range.gpa());
        if !same_flags {
            flags.push(Op::SetFlags {
                from: slot.clone(),
                to: Slot {
                    id: slot.id,
                    range: range.clone(),
                },
            });
        }
        false
    });
    flags
}

/// The properties that a move keeps: host address, size, access.
type Key = (u64, u64, SlotAccess);

/// The key of a range; `None` for a range on a file, whose slot cannot move.
fn key(range: &SlotRange) -> Option<Key> {
    match range.backing() {
        SlotBacking::Host(host) => Some((host.address(), host.size(), range.access())),
        SlotBacking::GuestMemfd { .. } | SlotBacking::FdOffset(_) => None,
    }
}

/// The slots and ranges without a partner, by memory and then by address.
struct Lists<'a> {
    old: Vec<(Option<Key>, Option<&'a Slot>)>,
    new: Vec<(Option<Key>, Option<SlotRange>)>,
}

/// The slots and ranges on the same memory, as indices. There is usually one of
/// each: only memory at several guest-physical addresses leaves a choice.
struct Group {
    old: Range<usize>,
    new: Range<usize>,
}

impl<'a> Lists<'a> {
    fn new(old: BTreeMap<u64, &'a Slot>, new: Vec<SlotRange>) -> Self {
        let old = old.into_values();
        let old = old.map(|slot| (key(&slot.range), Some(slot)));
        let new = new.into_iter();
        let new = new.map(|range| (key(&range), Some(range)));
        let (mut old, mut new): (Vec<_>, Vec<_>) = (old.collect(), new.collect());
        old.sort_by_key(|(key, _)| *key);
        new.sort_by_key(|(key, _)| *key);
        Self { old, new }
    }

    /// Groups the memory that is in both lists.
    fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        let (mut old, mut new) = (0, 0);
        while let (Some((key, _)), Some((other, _))) = (self.old.get(old), self.new.get(new)) {
            let old_end = old
                + self.old[old..]
                    .iter()
                    .take_while(|slot| slot.0 == *key)
                    .count();
            let new_end = new
                + self.new[new..]
                    .iter()
                    .take_while(|range| range.0 == *other)
                    .count();
            match key.cmp(other) {
                Ordering::Less => old = old_end,
                Ordering::Greater => new = new_end,
                Ordering::Equal => {
                    if key.is_some() {
                        groups.push(Group {
                            old: old..old_end,
                            new: new..new_end,
                        });
                    }
                    (old, new) = (old_end, new_end);
                }
            }
        }
        // By guest-physical address, which the VMM chooses. Host addresses
        // differ between runs, and plans must not.
        groups.sort_by_key(|group| self.old[group.old.start].1.map(|slot| slot.gpa()));
        groups
    }

    fn trips(&self, groups: &[Group], matching: &[usize]) -> Vec<Trip> {
        let trips = partners(groups, matching).filter_map(|(old, new)| {
            let (slot, range) = (self.old[old].1?, self.new[new].1.as_ref()?);
            Some(Trip {
                from: slot.gpa(),
                to: range.gpa(),
                size: slot.size(),
            })
        });
        trips.collect()
    }
}

impl Group {
    /// The number of pairs.
    fn pairs(&self) -> usize {
        self.old.len().min(self.new.len())
    }

    /// The number of possible partners.
    fn choices(&self) -> usize {
        self.old.len().max(self.new.len())
    }
}

/// The pairs of a matching, as indices into the two lists. A matching has a row
/// for each group; a row has, for each element of the shorter list, the index of
/// its partner in the longer list.
fn partners<'a>(
    groups: &'a [Group],
    matching: &'a [usize],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut rest = matching;
    groups.iter().flat_map(move |group| {
        let (row, others) = rest.split_at(group.pairs());
        rest = others;
        let fewer_old = group.old.len() <= group.new.len();
        let pairs = row.iter().copied().enumerate();
        pairs.map(move |(short, long)| match fewer_old {
            true => (group.old.start + short, group.new.start + long),
            false => (group.old.start + long, group.new.start + short),
        })
    })
}

/// The matching that breaks the fewest cycles, if the budget lasts.
fn best(lists: &Lists<'_>, groups: &[Group], budget: &mut Budget) -> (Vec<usize>, Order) {
    let mut matching = Vec::with_capacity(groups.len());
    for group in groups {
        matching.extend(0..group.pairs());
    }
    let order = order::order(&lists.trips(groups, &matching), budget);
    if order.broken.is_empty() {
        return (matching, order);
    }
    let mut best = (matching.clone(), order);
    while !best.1.broken.is_empty() && next_matching(groups, &mut matching) {
        if !budget.spend(matching.len()) {
            break;
        }
        let order = order::order(&lists.trips(groups, &matching), budget);
        if order.broken.len() < best.1.broken.len() {
            best = (matching.clone(), order);
        }
    }
    best
}

/// Steps to the next matching; false after the last one.
fn next_matching(groups: &[Group], matching: &mut [usize]) -> bool {
    let mut rest = matching;
    for group in groups {
        let (row, others) = rest.split_at_mut(group.pairs());
        rest = others;
        if next_arrangement(row, group.choices()) {
            return true;
        }
        for (place, first) in row.iter_mut().zip(0..) {
            *place = first;
        }
    }
    false
}

/// Steps to the next arrangement of some of `count` elements, in lexicographic
/// order; false after the last one.
fn next_arrangement(row: &mut [usize], count: usize) -> bool {
    let mut free = vec![true; count];
    for &element in row.iter() {
        free[element] = false;
    }
    for at in (0..row.len()).rev() {
        free[row[at]] = true;
        if let Some(next) = (row[at] + 1..count).find(|&element| free[element]) {
            free[next] = false;
            row[at] = next;
            let mut rest = (0..count).filter(|&element| free[element]);
            for (place, element) in row[at + 1..].iter_mut().zip(&mut rest) {
                *place = element;
            }
            return true;
        }
    }
    false
}
