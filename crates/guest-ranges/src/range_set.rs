// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A set of addresses, stored as ranges.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::addr_range::AddrRange;
use crate::walk::gaps;

/// A set of addresses, or of any other numbers. The set joins ranges that touch, so it
/// stores the fewest possible ranges.
///
/// ```
/// use guest_ranges::{AddrRange, RangeSet};
///
/// let range = |first, last| AddrRange::from_bounds(first, last).unwrap();
/// let mut set: RangeSet = [range(0, 4), range(5, 9)].into_iter().collect();
/// set.remove(range(2, 3));
/// assert!(set.iter().eq([range(0, 1), range(4, 9)]));
/// assert!(set.gaps(range(1, 20)).eq([range(2, 3), range(10, 20)]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to last. The ranges are disjoint and never adjacent.
    ranges: BTreeMap<u64, u64>,
    /// The number of addresses.
    count: u128,
}

impl RangeSet {
    /// An empty set.
    pub const fn new() -> Self {
        Self {
            ranges: BTreeMap::new(),
            count: 0,
        }
    }

    /// All addresses of the set, as the fewest ranges, by address.
    pub fn iter(&self) -> impl Iterator<Item = AddrRange> + '_ {
        let range = |(&start, &last): (&u64, &u64)| AddrRange::from_bounds(start, last);
        self.ranges.iter().filter_map(range)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The number of addresses in the set.
    pub fn count(&self) -> u128 {
        self.count
    }

    /// The start of the first range that is invalid or reaches the next one. The start
    /// of the last range if the number of addresses differs from the recorded one.
    pub(crate) fn first_wrong(&self) -> Option<u64> {
        let mut ranges = self.ranges.iter().peekable();
        let mut count = 0;
        while let Some((&start, &last)) = ranges.next() {
            let next = ranges.peek().map(|(next, _)| **next);
            let apart = next.is_none_or(|next| last < u64::MAX && last + 1 < next);
            match AddrRange::from_bounds(start, last).filter(|_| apart) {
                Some(range) => count += range.size(),
                None => return Some(start),
            }
        }
        let start = self.ranges.keys().next_back().copied();
        (count != self.count).then_some(start.unwrap_or(0))
    }

    /// Adds a range without joining it.
    #[cfg(test)]
    pub(crate) fn insert_unjoined(&mut self, start: u64, last: u64) {
        self.ranges.insert(start, last);
    }

    /// The parts of `range` that are in the set, by address.
    pub fn within(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        let before = self.ranges.range(..range.start()).next_back();
        let inside = self.ranges.range(range.start()..=range.last());
        let cut = move |(&start, &last): (&u64, &u64)| {
            AddrRange::from_bounds(start, last)?.intersect(range)
        };
        before.into_iter().chain(inside).filter_map(cut)
    }

    /// The parts of `range` that are not in the set, by address.
    pub fn gaps(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        gaps(range, self.within(range))
    }

    /// Whether `address` is in the set.
    pub fn contains(&self, address: u64) -> bool {
        let below = self.ranges.range(..=address).next_back();
        below.is_some_and(|(_, &last)| address <= last)
    }

    /// The first range of the set, as a whole, that shares an address with
    /// `range`.
    pub fn first_overlapping(&self, range: AddrRange) -> Option<AddrRange> {
        let start = self.within(range).next()?.start();
        let (&start, &last) = self.ranges.range(..=start).next_back()?;
        AddrRange::from_bounds(start, last)
    }

    /// Whether every address of `range` is in the set.
    pub fn covers(&self, range: AddrRange) -> bool {
        self.within(range).next() == Some(range)
    }

    /// Inserts every address of `range`.
    pub fn insert(&mut self, range: AddrRange) {
        // Reach one address further on both sides, to join what is adjacent.
        let reach = AddrRange::from_bounds(
            range.start().saturating_sub(1),
            range.last().saturating_add(1),
        );
        let (mut start, mut last) = (range.start(), range.last());
        for touched in self.starts_touching(reach.unwrap_or(range)) {
            start = start.min(touched);
            last = last.max(self.take(touched).unwrap_or(last));
        }
        self.put(start, last);
    }

    /// Removes every address of `range`.
    pub fn remove(&mut self, range: AddrRange) {
        for start in self.starts_touching(range) {
            let Some(last) = self.take(start) else {
                continue;
            };
            if start < range.start() {
                self.put(start, range.start() - 1);
            }
            if last > range.last() {
                self.put(range.last() + 1, last);
            }
        }
    }

    /// Adds a range that touches no other.
    fn put(&mut self, start: u64, last: u64) {
        self.ranges.insert(start, last);
        self.count += u128::from(last - start) + 1;
    }

    /// Removes the range that starts at `start`. Returns its last address.
    fn take(&mut self, start: u64) -> Option<u64> {
        let last = self.ranges.remove(&start)?;
        self.count -= u128::from(last - start) + 1;
        Some(last)
    }

    /// The starts of the stored ranges that share an address with `range`.
    fn starts_touching(&self, range: AddrRange) -> Vec<u64> {
        let touches = |&(_, &last): &(&u64, &u64)| last >= range.start();
        let before = self.ranges.range(..range.start()).next_back();
        let before = before.filter(touches).map(|(&start, _)| start);
        let inside = self.ranges.range(range.start()..=range.last());
        before
            .into_iter()
            .chain(inside.map(|(&start, _)| start))
            .collect()
    }
}

impl FromIterator<AddrRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = AddrRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..40, (u64::MAX - 40)..=u64::MAX]
    }

    proptest! {
        #[test]
        fn a_range_set_agrees_with_painting_every_address(
            steps in prop::collection::vec((any::<bool>(), edge(), 0_u64..12), 0..40)
        ) {
            let mut set = RangeSet::default();
            let mut painted = alloc::collections::BTreeSet::new();
            for (insert, start, more) in steps {
                let range = AddrRange::from_bounds(start, start.saturating_add(more)).unwrap();
                for address in range.start()..=range.last() {
                    if insert { painted.insert(address); } else { painted.remove(&address); }
                }
                if insert { set.insert(range) } else { set.remove(range) }
                prop_assert_eq!(set.covers(range), insert);
                prop_assert_eq!(set.count, painted.len() as u128);
                prop_assert_eq!(set.first_wrong(), None);
            }
            let listed: Vec<u64> = set.iter().flat_map(|r| r.start()..=r.last()).collect();
            prop_assert_eq!(listed, painted.into_iter().collect::<Vec<_>>());
            let ranges: Vec<_> = set.iter().collect();
            let window = AddrRange::from_bounds(u64::MAX - 50, u64::MAX).unwrap();
            for address in window.start()..=window.last() {
                let free = set.gaps(window).any(|gap| gap.contains(address));
                prop_assert_eq!(set.contains(address), !free);
                let only = AddrRange::from_bounds(address, address).unwrap();
                let whole = ranges.iter().copied().find(|range| range.contains(address));
                prop_assert_eq!(set.first_overlapping(only), whole);
            }
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].last() + 1 < pair[1].start(), "not joined: {:?}", ranges);
            }
        }
    }
}
