// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The regions in a region, found by where they lie.
//!
//! They may overlap and be of any size, so they are kept by the magnitude of
//! their size: of those with up to 2^n bytes, the ones that reach into a range
//! start less than 2^n before it. Asking for a range so costs little more than
//! what is found, however many there are.

use alloc::vec::Vec;

use smallvec::SmallVec;

use crate::by_start::ByStart;
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
    #[inline]
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        core::cmp::Reverse((self.priority, self.placing))
    }
}

/// All regions in a region.
#[derive(Debug, Default)]
pub(crate) struct Children {
    by_size: Vec<SameSize>,
}

/// Those of like size.
#[derive(Debug)]
struct SameSize {
    magnitude: u32,
    by_start: ByStart,
}

impl Children {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_size.iter().all(|size| size.by_start.is_empty())
    }

    #[inline]
    pub(crate) fn insert(&mut self, child: Child) {
        let magnitude = magnitude(child.range);
        let known = self.by_size.iter_mut().find(|s| s.magnitude == magnitude);
        match known {
            Some(same_size) => same_size.by_start.insert(child),
            None => {
                let mut by_start = ByStart::default();
                by_start.insert(child);
                self.by_size.push(SameSize {
                    magnitude,
                    by_start,
                });
            }
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, child: &Child) {
        let magnitude = magnitude(child.range);
        let known = self.by_size.iter_mut().find(|s| s.magnitude == magnitude);
        if let Some(same_size) = known {
            same_size
                .by_start
                .remove(child.range.start(), child.placing);
        }
    }

    /// All of them, in no order that means anything.
    pub(crate) fn all(&self) -> Vec<Child> {
        let mut all = Vec::new();
        for SameSize { by_start, .. } in &self.by_size {
            by_start.for_each(0, u64::MAX, &mut |child| all.push(*child));
        }
        all
    }

    /// Those that reach into `range`, the winner first.
    #[inline]
    pub(crate) fn reaching_into(&self, range: AddrRange) -> SmallVec<[Child; 2]> {
        let mut found = SmallVec::new();
        for SameSize {
            magnitude,
            by_start,
        } in &self.by_size
        {
            let reach = u64::MAX.checked_shr(64 - magnitude).unwrap_or(0);
            let from = range.start().saturating_sub(reach);
            by_start.for_each(from, range.last(), &mut |child| {
                if child.range.last() >= range.start() {
                    found.push(*child);
                }
            });
        }
        if found.len() > 1 {
            found.sort_unstable_by_key(Child::rank);
        }
        found
    }
}

/// The n for which a range has more than 2^(n-1) and up to 2^n bytes.
#[inline]
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
                    children.remove(&all.swap_remove(index.index(all.len())));
                }
            }
            prop_assert_eq!(children.is_empty(), all.is_empty());
            for range in asked {
                let mut expected: Vec<_> =
                    all.iter().copied().filter(|c| c.range.intersect(range).is_some()).collect();
                expected.sort_by_key(Child::rank);
                prop_assert_eq!(children.reaching_into(range).into_vec(), expected);
            }
        }
    }
}
