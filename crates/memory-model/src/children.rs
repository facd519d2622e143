// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The regions in a region, found by where they lie.
//!
//! They may overlap and be of any size, so they are kept by the magnitude of
//! their size: of those with up to 2^n bytes, the ones that reach into a range
//! start less than 2^n before it. Asking for a range so costs little more than
//! what is found, however many there are.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::{AddrRange, RegionId};

/// A region in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) id: RegionId,
    /// Where it lies, in the addresses of the region around it; cut off where
    /// 64 bits end.
    pub(crate) range: AddrRange,
    pub(crate) priority: i32,
    /// The number of its placing: the latest has the highest.
    pub(crate) placing: u64,
}

impl Child {
    /// Sorts the winner first: priority downwards, the latest first among
    /// equals.
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        core::cmp::Reverse((self.priority, self.placing))
    }
}

/// All regions in a region.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// By magnitude of size, then by start and placing.
    by_size: BTreeMap<u32, BTreeMap<(u64, u64), Child>>,
}

impl Children {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_size.is_empty()
    }

    pub(crate) fn insert(&mut self, child: Child) {
        let same_size = self.by_size.entry(magnitude(child.range)).or_default();
        same_size.insert((child.range.start(), child.placing), child);
    }

    pub(crate) fn remove(&mut self, child: Child) {
        let magnitude = magnitude(child.range);
        if let Some(same_size) = self.by_size.get_mut(&magnitude) {
            same_size.remove(&(child.range.start(), child.placing));
            if same_size.is_empty() {
                self.by_size.remove(&magnitude);
            }
        }
    }

    /// All of them, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Child> {
        self.by_size.values().flat_map(BTreeMap::values)
    }

    /// Those that reach into `range`, the winner first.
    pub(crate) fn reaching_into(&self, range: AddrRange) -> Vec<Child> {
        let mut found = Vec::new();
        for (&magnitude, same_size) in &self.by_size {
            let reach = u64::MAX.checked_shr(64 - magnitude).unwrap_or(0);
            let from = range.start().saturating_sub(reach);
            let near = same_size
                .range((from, 0)..=(range.last(), u64::MAX))
                .map(|(_, child)| child);
            found.extend(near.filter(|child| child.range.last() >= range.start()));
        }
        if found.len() > 1 {
            found.sort_unstable_by_key(Child::rank);
        }
        found
    }
}

/// The n for which a range has more than 2^(n-1) and up to 2^n bytes.
fn magnitude(range: AddrRange) -> u32 {
    // One less than the size, which has 64 bits at the most.
    64 - (range.last() - range.start()).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..64, (u64::MAX - 64)..=u64::MAX, any::<u64>()]
    }

    fn range() -> impl Strategy<Value = AddrRange> {
        (edge(), edge()).prop_map(|(a, b)| AddrRange::from_bounds(a.min(b), a.max(b)).unwrap())
    }

    proptest! {
        #[test]
        fn children_are_found_as_by_looking_at_each(
            placed in prop::collection::vec((range(), -2_i32..2), 0..40),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            asked in prop::collection::vec(range(), 1..20),
        ) {
            let (mut children, mut all) = (Children::default(), Vec::new());
            for (placing, (range, priority)) in (0..).zip(placed) {
                let id = RegionId { index: 0, generation: 0 };
                let child = Child { id, range, priority, placing };
                children.insert(child);
                all.push(child);
            }
            for index in gone {
                if !all.is_empty() {
                    children.remove(all.swap_remove(index.index(all.len())));
                }
            }
            prop_assert_eq!(children.is_empty(), all.is_empty());
            for range in asked {
                let mut expected: Vec<_> =
                    all.iter().copied().filter(|c| c.range.intersect(range).is_some()).collect();
                expected.sort_by_key(Child::rank);
                prop_assert_eq!(children.reaching_into(range), expected);
            }
        }
    }
}
