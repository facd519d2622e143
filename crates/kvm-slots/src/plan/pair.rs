// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which slot becomes which: what stays, what moves, what must go and come.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use super::cut::Wanted;
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
    pub(super) creates: Vec<Wanted>,
}

/// Finds the fewest operations from the slots `had`, by address, to `wanted`.
pub(super) fn pair(mut had: BTreeMap<u64, &Slot>, mut wanted: Vec<Wanted>) -> Pairs {
    let flags = match_in_place(&mut had, &mut wanted);
    let mut lists = Lists::new(had, wanted);
    let groups = lists.groups();
    let (matching, order) = best(&lists, &groups, &mut Budget(BUDGET));

    let partners: Vec<(usize, usize)> = partners(&groups, &matching).collect();
    let mut moves = Vec::with_capacity(order.moves.len());
    for index in order.moves {
        let (had, want) = partners[index];
        if let (Some(slot), Some(want)) = (lists.had[had].1.take(), lists.wanted[want].1.take()) {
            moves.push((slot.clone(), want.numbered(slot.id)));
        }
    }
    // Whoever has no partner, or was in the way of a circle.
    // Extended and not collected: that would reuse, and cut, the lists' memory.
    let (mut deletes, mut creates) = (Vec::new(), Vec::new());
    deletes.extend(lists.had.iter().filter_map(|(_, slot)| slot.cloned()));
    deletes.sort_by_key(|slot| slot.gpa);
    creates.extend(lists.wanted.into_iter().filter_map(|(_, want)| want));
    Pairs {
        deletes,
        moves,
        flags,
        creates,
    }
}

/// Pairs what stays where it is; returns what only changes its logging.
fn match_in_place(had: &mut BTreeMap<u64, &Slot>, wanted: &mut Vec<Wanted>) -> Vec<Op> {
    let mut flags = Vec::new();
    wanted.retain(|want| {
        let Some(&slot) = had.get(&want.gpa) else {
            return true;
        };
        let same_flags = slot.log_dirty == want.log_dirty;
        if !want.is_same_memory(slot) || !(same_flags || slot.is_mutable()) {
            return true;
        }
        had.remove(&want.gpa);
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
    had: Vec<(Option<Key>, Option<&'a Slot>)>,
    wanted: Vec<(Option<Key>, Option<Wanted>)>,
}

/// The slots that are on the same memory, and those that shall be, as indices.
/// Mostly one each: only memory that shows at several addresses leaves a choice.
struct Group {
    had: Range<usize>,
    wanted: Range<usize>,
}

impl<'a> Lists<'a> {
    fn new(had: BTreeMap<u64, &'a Slot>, wanted: Vec<Wanted>) -> Self {
        let had = had.into_values().map(|slot| {
            let key = key(&slot.backing, slot.size, slot.access);
            (key, Some(slot))
        });
        let wanted = wanted.into_iter().map(|want| {
            let key = key(&want.backing, want.size, want.access);
            (key, Some(want))
        });
        let (mut had, mut wanted): (Vec<_>, Vec<_>) = (had.collect(), wanted.collect());
        had.sort_by_key(|(key, _)| *key);
        wanted.sort_by_key(|(key, _)| *key);
        Self { had, wanted }
    }

    /// The memory that is in both lists.
    fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        let (mut had, mut wanted) = (0, 0);
        while let (Some((key, _)), Some((other, _))) = (self.had.get(had), self.wanted.get(wanted))
        {
            let had_end = had + self.had[had..].iter().take_while(|h| h.0 == *key).count();
            let wanted_end = wanted
                + self.wanted[wanted..]
                    .iter()
                    .take_while(|w| w.0 == *other)
                    .count();
            match key.cmp(other) {
                Ordering::Less => had = had_end,
                Ordering::Greater => wanted = wanted_end,
                Ordering::Equal => {
                    if key.is_some() {
                        groups.push(Group {
                            had: had..had_end,
                            wanted: wanted..wanted_end,
                        });
                    }
                    (had, wanted) = (had_end, wanted_end);
                }
            }
        }
        // By guest-physical address, which the VMM chooses: host addresses
        // differ from one run to the next, and plans must not.
        groups.sort_by_key(|group| self.had[group.had.start].1.map(|slot| slot.gpa));
        groups
    }

    fn trips(&self, groups: &[Group], matching: &[usize]) -> Vec<Trip> {
        let trips = partners(groups, matching).filter_map(|(had, want)| {
            let (slot, want) = (self.had[had].1?, self.wanted[want].1.as_ref()?);
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
        self.had.len().min(self.wanted.len())
    }

    /// How many there are to choose from.
    fn choices(&self) -> usize {
        self.had.len().max(self.wanted.len())
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
        let fewer_had = group.had.len() <= group.wanted.len();
        let pairs = row.iter().copied().enumerate();
        pairs.map(move |(short, long)| match fewer_had {
            true => (group.had.start + short, group.wanted.start + long),
            false => (group.had.start + long, group.wanted.start + short),
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
