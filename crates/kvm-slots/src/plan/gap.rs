// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the guest could see a gap while a plan is carried out.

use std::collections::BTreeMap;

use crate::slot::{Slot, SlotId};

/// Whether some address is in a slot before and after, but not all the time.
/// A move is no gap: vCPUs that fault on the slot meanwhile retry.
pub(super) fn has_gap(deletes: &[Slot], moves: &[(Slot, Slot)], creates: &[Slot]) -> bool {
    let goes = deletes.len() + moves.len();
    let comes = creates.len() + moves.len();
    // One slot that moves keeps what it covers before and after.
    if goes == 0 || comes == 0 || (moves.len(), goes, comes) == (1, 1, 1) {
        return false;
    }
    let come = creates.iter().chain(moves.iter().map(|(_, to)| to));
    let come: BTreeMap<u64, &Slot> = come.map(|slot| (slot.gpa, slot)).collect();
    let comes_back = |gone: &Slot, own: Option<SlotId>| {
        let below = come.range(..=gone.last()).rev().map(|(_, slot)| *slot);
        // The first of these ends last.
        let mut others = below.filter(|slot| Some(slot.id) != own);
        others.next().is_some_and(|slot| slot.last() >= gone.gpa)
    };
    deletes.iter().any(|gone| comes_back(gone, None))
        || moves
            .iter()
            .any(|(from, _)| comes_back(from, Some(from.id)))
}
