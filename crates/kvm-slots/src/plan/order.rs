// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! In which order slots can move without ever overlapping, and whether the
//! guest could see a gap meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use crate::slot::{Slot, SlotId};

/// Moves in an order in which each finds its place free, and those slots that
/// had to be taken out of circles for that: they are deleted before any move.
pub(super) struct Ordered {
    pub(super) moves: Vec<(Slot, Slot)>,
    pub(super) broken: Vec<(Slot, Slot)>,
}

/// Orders moves. Neither the slots as they were overlap, nor as they shall be.
pub(super) fn order(moves: &[(Slot, Slot)]) -> Ordered {
    let by_id: BTreeMap<SlotId, &(Slot, Slot)> = moves.iter().map(|m| (m.0.id, m)).collect();
    let mut in_place = Disjoint::new(moves.iter().map(|(from, _)| from));
    let mut ordered = Ordered {
        moves: Vec::new(),
        broken: Vec::new(),
    };
    for (start, _) in moves {
        // A path of slots, each of which waits for the next to go. What leaves
        // it never comes back, so this is a few steps for each move.
        let mut path = vec![start.id];
        let mut on_path = BTreeSet::from([start.id]);
        while let Some(&id) = path.last() {
            let (from, to) = by_id[&id];
            let done = match in_place.overlapping(to, Some(id)) {
                _ if !in_place.contains(from) => None,
                None => Some(&mut ordered.moves),
                // It waits for a slot that waits for it.
                Some(next) if on_path.contains(&next.id) => Some(&mut ordered.broken),
                Some(next) => {
                    path.push(next.id);
                    on_path.insert(next.id);
                    continue;
                }
            };
            if let Some(done) = done {
                done.push((from.clone(), to.clone()));
                in_place.remove(from);
            }
            path.pop();
            on_path.remove(&id);
        }
    }
    ordered
}

/// Whether some address is in a slot before and after, but not all the time.
/// A move is no gap: vCPUs that fault on the slot meanwhile retry.
pub(super) fn has_gap(deletes: &[Slot], moves: &[(Slot, Slot)], creates: &[Slot]) -> bool {
    let come = Disjoint::new(creates.iter().chain(moves.iter().map(|(_, to)| to)));
    let mut deletes = deletes.iter();
    let mut moves = moves.iter();
    deletes.any(|gone| come.overlapping(gone, None).is_some())
        || moves.any(|(from, _)| come.overlapping(from, Some(from.id)).is_some())
}

/// Slots that do not overlap, by address.
struct Disjoint<'a>(BTreeMap<u64, &'a Slot>);

impl<'a> Disjoint<'a> {
    fn new(slots: impl Iterator<Item = &'a Slot>) -> Self {
        Self(slots.map(|slot| (slot.gpa, slot)).collect())
    }

    fn contains(&self, slot: &Slot) -> bool {
        self.0.contains_key(&slot.gpa)
    }

    fn remove(&mut self, slot: &Slot) {
        self.0.remove(&slot.gpa);
    }

    /// A slot that shares an address with `place` and has not the number `own`.
    fn overlapping(&self, place: &Slot, own: Option<SlotId>) -> Option<&'a Slot> {
        let below = self.0.range(..=place.last()).rev().map(|(_, slot)| *slot);
        // The first of these ends last.
        let mut others = below.filter(|slot| Some(slot.id) != own);
        others.next().filter(|slot| slot.last() >= place.gpa)
    }
}
