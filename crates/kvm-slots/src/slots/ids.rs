// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The free slot numbers of a table.

use std::ops::RangeInclusive;

use guest_ranges::{AddrRange, RangeSet};

use crate::slots::slot::SlotId;

/// The free numbers, as a set of ranges. A planned move does not change it; a
/// new or deleted slot changes one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FreeIds(RangeSet);

impl FreeIds {
    /// All numbers.
    pub(crate) fn all() -> Self {
        Self(range(0..=SlotId::MAX).into_iter().collect())
    }

    /// Removes numbers from the set.
    pub(crate) fn take(&mut self, ids: RangeInclusive<SlotId>) {
        if let Some(ids) = range(ids) {
            self.0.remove(ids);
        }
    }

    /// Returns a number to the set.
    pub(crate) fn put_back(&mut self, id: SlotId) {
        if let Some(id) = range(id..=id) {
            self.0.insert(id);
        }
    }

    /// The free numbers, the lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotId> + '_ {
        let numbers = self.0.iter().flat_map(|ids| ids.start()..=ids.last());
        numbers.filter_map(|id| SlotId::try_from(id).ok())
    }
}

/// The numbers as a range; `None` if there are none.
fn range(ids: RangeInclusive<SlotId>) -> Option<AddrRange> {
    AddrRange::from_bounds((*ids.start()).into(), (*ids.end()).into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_number_can_be_removed_and_returned() {
        let mut free = FreeIds::all();
        free.take(SlotId::MAX..=SlotId::MAX);
        assert_eq!(free.iter().last(), Some(SlotId::MAX - 1));
        free.put_back(SlotId::MAX);
        assert_eq!(free, FreeIds::all());
    }

    proptest! {
        #[test]
        fn free_numbers_agree_with_a_set_of_all_numbers(
            steps in prop::collection::vec((any::<bool>(), 0..40_u16, 0..6_u16), 0..60)
        ) {
            let mut free = FreeIds::all();
            let mut set: BTreeSet<SlotId> = (0..100).collect();
            for (take, first, more) in steps {
                if take {
                    free.take(first..=first + more);
                    set.retain(|id| !(first..=first + more).contains(id));
                } else {
                    free.put_back(first);
                    set.insert(first);
                }
                prop_assert!(free.iter().take_while(|id| *id < 100).eq(set.iter().copied()));
                prop_assert!(free.0.len() <= 40);
            }
        }
    }
}
