// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which slot numbers are free.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::slot::SlotId;

/// The free numbers, as runs: the first of each run, and its last.
/// There are never more runs than slots and reservations together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FreeIds(BTreeMap<SlotId, SlotId>);

impl FreeIds {
    /// Every number there is.
    pub(crate) fn all() -> Self {
        Self(BTreeMap::from([(0, SlotId::MAX)]))
    }

    /// These numbers are free no more.
    pub(crate) fn take(&mut self, ids: RangeInclusive<SlotId>) {
        let (first, last) = ids.into_inner();
        while let Some((&from, &to)) = self.0.range(..=last).next_back() {
            if first > last || to < first {
                return;
            }
            self.0.remove(&from);
            if last < to {
                self.0.insert(last + 1, to);
            }
            if from < first {
                self.0.insert(from, first - 1);
            }
        }
    }

    /// The number, which was taken, is free again.
    pub(crate) fn put_back(&mut self, id: SlotId) {
        let below = self.0.range(..=id).next_back().map(|(&a, &b)| (a, b));
        if below.is_some_and(|(_, last)| last >= id) {
            return;
        }
        let first = match below {
            Some((first, last)) if last.checked_add(1) == Some(id) => first,
            _ => id,
        };
        let above = id.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, above.unwrap_or(id));
    }

    /// The free numbers, the lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.0.iter().flat_map(|(&first, &last)| first..=last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_number_can_be_taken_and_put_back() {
        let mut free = FreeIds::all();
        free.take(SlotId::MAX..=SlotId::MAX);
        assert_eq!(free.iter().last(), Some(SlotId::MAX - 1));
        free.put_back(SlotId::MAX);
        assert_eq!(free, FreeIds::all());
    }

    proptest! {
        #[test]
        fn runs_of_free_numbers_are_what_a_set_of_all_numbers_would_be(
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
