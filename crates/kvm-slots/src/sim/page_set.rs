// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which addresses have an attribute: half-open ranges, joined where they meet.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct PageSet {
    /// Start to end, disjoint.
    ranges: BTreeMap<u64, u64>,
}

impl PageSet {
    pub(super) fn contains(&self, address: &u64) -> bool {
        let before = self.ranges.range(..=address).next_back();
        before.is_some_and(|(_, end)| address < end)
    }

    pub(super) fn insert(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        // What touches the new range becomes part of it.
        while let Some((&from, &to)) = self.ranges.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.ranges.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.ranges.insert(start, end);
    }

    pub(super) fn remove(&mut self, start: u64, end: u64) {
        while let Some((&from, &to)) = self.ranges.range(..end).next_back() {
            if to <= start {
                break;
            }
            self.ranges.remove(&from);
            if end < to {
                self.ranges.insert(end, to);
            }
            if from < start {
                self.ranges.insert(from, start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_page_set_agrees_with_a_set_of_every_page(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, 1_u64..12), 0..40)
        ) {
            let (mut set, mut pages) = (PageSet::default(), BTreeSet::new());
            for (insert, start, len) in steps {
                if insert {
                    set.insert(start, start + len);
                    pages.extend(start..start + len);
                } else {
                    set.remove(start, start + len);
                    pages.retain(|p| !(start..start + len).contains(p));
                }
                let held: BTreeSet<u64> = (0..60).filter(|p| set.contains(p)).collect();
                prop_assert_eq!(&held, &pages);
            }
        }
    }
}
