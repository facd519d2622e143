// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which addresses have some property: half-open ranges, joined where they meet.

use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug, Default)]
pub(crate) struct PageSet {
    /// Start to end, disjoint.
    ranges: BTreeMap<u64, u64>,
}

impl PageSet {
    #[cfg(any(feature = "sim", test))]
    pub(crate) fn contains(&self, address: &u64) -> bool {
        let before = self.ranges.range(..=address).next_back();
        before.is_some_and(|(_, end)| address < end)
    }

    /// The parts of a range that are in the set.
    pub(crate) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let below = self.ranges.range(..=range.start).next_back();
        let first = below.map_or(range.start, |(from, _)| *from);
        let near = self.ranges.range(first..range.end.max(first));
        let parts = near.map(|(from, to)| (*from).max(range.start)..(*to).min(range.end));
        parts.filter(|part| !part.is_empty()).collect()
    }

    pub(crate) fn insert(&mut self, start: u64, end: u64) {
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

    pub(crate) fn remove(&mut self, start: u64, end: u64) {
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
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, 1_u64..12), 0..40),
            asked in (0_u64..50, 0_u64..20),
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
            let asked = asked.0..asked.0 + asked.1;
            let parts = set.within(&asked);
            prop_assert!(parts.windows(2).all(|w| w[0].end < w[1].start));
            pages.retain(|page| asked.contains(page));
            prop_assert_eq!(BTreeSet::from_iter(parts.into_iter().flatten()), pages);
        }
    }
}
