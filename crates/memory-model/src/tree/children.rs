// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The children of a region, by address.
//!
//! Children may overlap and have any size. They are grouped by the magnitude of their
//! size: those with up to 2^n bytes that reach into a range start less than 2^n before
//! it. A lookup therefore costs little more than the children that it finds, however
//! many there are.

use alloc::vec::Vec;

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::tree::by_start::ByStart;
use crate::tree::child::Child;

/// All regions in a region.
#[derive(Debug, Default)]
pub(crate) struct Children {
    by_size: Vec<SameSize>,
}

/// Children with the same magnitude of size.
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

    /// All children, in an unspecified order.
    pub(crate) fn all(&self) -> Vec<Child> {
        let mut all = Vec::new();
        for SameSize { by_start, .. } in &self.by_size {
            by_start.for_each(0, u64::MAX, &mut |child| all.push(*child));
        }
        all
    }

    /// The children that reach into `range`, the winner first.
    #[inline]
    pub(crate) fn reaching_into(&self, range: AddrRange) -> SmallVec<[Child; 2]> {
        let mut found = SmallVec::new();
        for same_size in &self.by_size {
            let from = same_size.from(range);
            let by_start = &same_size.by_start;
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

    /// Calls `visit` for the children that reach into `range`, in an unspecified
    /// order.
    #[inline]
    pub(crate) fn for_each_reaching_into(&self, range: AddrRange, mut visit: impl FnMut(&Child)) {
        for same_size in &self.by_size {
            let from = same_size.from(range);
            let by_start = &same_size.by_start;
            by_start.for_each(from, range.last(), &mut |child| {
                if child.range.last() >= range.start() {
                    visit(child);
                }
            });
        }
    }

    /// Calls `visit` for the children that reach into `range`, in an unspecified
    /// order. Returns false, and stops, if more than `left` have to be examined.
    pub(crate) fn few_reaching_into(
        &self,
        range: AddrRange,
        left: &mut usize,
        mut visit: impl FnMut(&Child),
    ) -> bool {
        self.by_size.iter().all(|same_size| {
            let from = same_size.from(range);
            let by_start = &same_size.by_start;
            by_start.while_each(from, range.last(), &mut |child| {
                let Some(less) = left.checked_sub(1) else {
                    return false;
                };
                *left = less;
                if child.range.last() >= range.start() {
                    visit(child);
                }
                true
            })
        })
    }
}

impl SameSize {
    /// The lowest start of a child that can reach into `range`.
    #[inline]
    fn from(&self, range: AddrRange) -> u64 {
        let reach = u64::MAX.checked_shr(64 - self.magnitude).unwrap_or(0);
        range.start().saturating_sub(reach)
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
    use crate::ids::RegionId;
    use proptest::prelude::*;

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..64, (u64::MAX - 64)..=u64::MAX, any::<u64>()]
    }

    fn range() -> impl Strategy<Value = AddrRange> {
        (edge(), edge()).prop_map(|(a, b)| AddrRange::from_bounds(a.min(b), a.max(b)).unwrap())
    }

    proptest! {
        #[test]
        fn children_are_found_as_by_a_linear_search(
            placed in prop::collection::vec((range(), -2_i32..2), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            asked in prop::collection::vec(range(), 1..20),
            most in 0_usize..50,
        ) {
            let (mut children, mut all) = (Children::default(), Vec::new());
            for (placing, (range, priority)) in (0..).zip(placed) {
                let id = RegionId { index: 0, generation: 0 };
                let child = Child { id, range, priority, placing };
                children.insert(child);
                all.push(child);
            }
            for index in removed {
                if !all.is_empty() {
                    children.remove(&all.swap_remove(index.index(all.len())));
                }
            }
            prop_assert_eq!(children.is_empty(), all.is_empty());
            for range in asked {
                let mut expected: Vec<_> =
                    all.iter().copied().filter(|c| c.range.intersect(range).is_some()).collect();
                expected.sort_by_key(Child::rank);
                prop_assert_eq!(&children.reaching_into(range)[..], &expected[..]);
                let mut few = Vec::new();
                let mut left = most;
                let all_of_them = children.few_reaching_into(range, &mut left, |c| few.push(*c));
                prop_assert!(few.len() <= most - left && most - left <= all.len());
                few.sort_by_key(Child::rank);
                if all_of_them {
                    prop_assert_eq!(few, expected);
                } else {
                    prop_assert!(left == 0 && all.len() > most);
                }
            }
        }
    }
}
