// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which slot becomes which: what stays, what moves, what is deleted and created.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use super::cut::NewSlot;
use super::op::Op;
use super::order::{self, Budget, Order, Trip};
use crate::range::{Backing, SlotAccess};
use crate::slot::Slot;

/// How long the shortest plan is searched for. Some milliseconds: more than
/// any change takes that is not made to be hard.
const BUDGET: usize = 1 << 16;

/// The operations without numbers for new slots.
#[derive(Debug)]
pub(super) struct Pairs {
    pub(super) deletes: Vec<Slot>,
    /// In an order in which each finds its place free.
    pub(super) moves: Vec<(Slot, Slot)>,
    pub(super) flags: Vec<Op>,
    pub(super) creates: Vec<NewSlot>,
}

/// Finds the fewest operations from the slots `old`, by address, to `new`.
pub(super) fn pair(mut old: BTreeMap<u64, &Slot>, mut new: Vec<NewSlot>) -> Pairs {
    let flags = match_in_place(&mut old, &mut new);
    let mut lists = Lists::new(old, new);
    let groups = lists.groups();
    let (matching, order) = best(&lists, &groups, &mut Budget(BUDGET));

    let partners: Vec<(usize, usize)> = partners(&groups, &matching).collect();
    let mut moves = Vec::with_capacity(order.moves.len());
    for index in order.moves {
        let (old, want) = partners[index];
        if let (Some(slot), Some(want)) = (lists.old[old].1.take(), lists.new[want].1.take()) {
            moves.push((slot.clone(), want.numbered(slot.id)));
        }
    }
    // Whoever has no partner, or was in the way of a circle.
    // Extended and not collected: that would reuse, and cut, the lists' memory.
    let (mut deletes, mut creates) = (Vec::new(), Vec::new());
    deletes.extend(lists.old.iter().filter_map(|(_, slot)| slot.cloned()));
    deletes.sort_by_key(|slot| slot.gpa);
    creates.extend(lists.new.into_iter().filter_map(|(_, want)| want));
    Pairs {
        deletes,
        moves,
        flags,
        creates,
    }
}

/// Pairs what stays where it is; returns what only changes its logging.
fn match_in_place(old: &mut BTreeMap<u64, &Slot>, new: &mut Vec<NewSlot>) -> Vec<Op> {
    let mut flags = Vec::new();
    new.retain(|want| {
        let Some(&slot) = old.get(&want.gpa) else {
            return true;
        };
        let same_flags = slot.log_dirty == want.log_dirty;
        if !want.is_same_memory(slot) || !(same_flags || slot.is_mutable()) {
            return true;
        }
        old.remove(&want.gpa);
        if !same_flags {
            flags.push(Op::SetFlags {
                from: slot.clone(),
                to: want.clone().numbered(slot.id),
            });
        }
        false
    });
    flags
}

/// What stays the same about a slot that moves: host address, size, access.
type Key = (u64, u64, SlotAccess);

/// The key of a slot; `None` for one on a file, which cannot move.
fn key(backing: &Backing, size: u64, access: SlotAccess) -> Option<Key> {
    match backing {
        Backing::Host(host) => Some((host.address(), size, access)),
        Backing::GuestMemfd { .. } | Backing::FdOffset(_) => None,
    }
}

/// All that has no partner yet, by memory and then by address.
struct Lists<'a> {
    old: Vec<(Option<Key>, Option<&'a Slot>)>,
    new: Vec<(Option<Key>, Option<NewSlot>)>,
}

/// The slots that are on the same memory, and those that shall be, as indices.
/// Mostly one each: only memory that shows at several addresses leaves a choice.
struct Group {
    old: Range<usize>,
    new: Range<usize>,
}

impl<'a> Lists<'a> {
    fn new(old: BTreeMap<u64, &'a Slot>, new: Vec<NewSlot>) -> Self {
        let old = old.into_values().map(|slot| {
            let key = key(&slot.backing, slot.size, slot.access);
            (key, Some(slot))
        });
        let new = new.into_iter().map(|want| {
            let key = key(&want.backing, want.size, want.access);
            (key, Some(want))
        });
        let (mut old, mut new): (Vec<_>, Vec<_>) = (old.collect(), new.collect());
        old.sort_by_key(|(key, _)| *key);
        new.sort_by_key(|(key, _)| *key);
        Self { old, new }
    }

    /// The memory that is in both lists.
    fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        let (mut old, mut new) = (0, 0);
        while let (Some((key, _)), Some((other, _))) = (self.old.get(old), self.new.get(new)) {
            let old_end = old + self.old[old..].iter().take_while(|h| h.0 == *key).count();
            let new_end = new + self.new[new..].iter().take_while(|w| w.0 == *other).count();
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
        // By guest-physical address, which the VMM chooses: host addresses
        // differ from one run to the next, and plans must not.
        groups.sort_by_key(|group| self.old[group.old.start].1.map(|slot| slot.gpa));
        groups
    }

    fn trips(&self, groups: &[Group], matching: &[usize]) -> Vec<Trip> {
        let trips = partners(groups, matching).filter_map(|(old, want)| {
            let (slot, want) = (self.old[old].1?, self.new[want].1.as_ref()?);
            Some(Trip {
                from: slot.gpa,
                to: want.gpa,
                size: slot.size,
            })
        });
        trips.collect()
    }
}

impl Group {
    /// How many of them have a partner.
    fn pairs(&self) -> usize {
        self.old.len().min(self.new.len())
    }

    /// How many there are to choose from.
    fn choices(&self) -> usize {
        self.old.len().max(self.new.len())
    }
}

/// The pairs of a matching: which slot becomes which. A matching has for each
/// group a row, which has for each of the shorter list its partner in the
/// longer one.
fn partners<'a>(
    groups: &'a [Group],
    matching: &'a [usize],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut rest = matching;
    groups.iter().flat_map(move |group| {
        let (row, behind) = rest.split_at(group.pairs());
        rest = behind;
        let fewer_old = group.old.len() <= group.new.len();
        let pairs = row.iter().copied().enumerate();
        pairs.map(move |(short, long)| match fewer_old {
            true => (group.old.start + short, group.new.start + long),
            false => (group.old.start + long, group.new.start + short),
        })
    })
}

/// The matching that breaks the fewest circles, if the budget lasts.
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

/// The next of all matchings; false behind the last one.
fn next_matching(groups: &[Group], matching: &mut [usize]) -> bool {
    let mut rest = matching;
    for group in groups {
        let (row, behind) = rest.split_at_mut(group.pairs());
        rest = behind;
        if next_arrangement(row, group.choices()) {
            return true;
        }
        for (place, first) in row.iter_mut().zip(0..) {
            *place = first;
        }
    }
    false
}

/// The next way, by the order of dictionaries, to put some of `count` things
/// in a row; false behind the last one.
fn next_arrangement(row: &mut [usize], count: usize) -> bool {
    let mut free = vec![true; count];
    for &thing in row.iter() {
        free[thing] = false;
    }
    for at in (0..row.len()).rev() {
        free[row[at]] = true;
        if let Some(next) = (row[at] + 1..count).find(|&thing| free[thing]) {
            free[next] = false;
            row[at] = next;
            let mut rest = (0..count).filter(|&thing| free[thing]);
            for (place, thing) in row[at + 1..].iter_mut().zip(&mut rest) {
                *place = thing;
            }
            return true;
        }
    }
    false
}
