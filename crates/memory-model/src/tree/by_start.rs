// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A B-tree of children, sorted by their start.
//!
//! The nodes are large sorted arrays. A lookup searches a few of them, and an insertion
//! moves half of one on average. The standard library's tree takes twice as many
//! instructions to find the start of a range of keys.

use alloc::vec::Vec;
use core::mem;

use crate::tree::child::Child;

/// The most regions in a leaf.
const MAX_CHILDREN: usize = 48;

/// Children by their start. The order of equal starts is unspecified.
///
/// An inner node has at most `MAX_PARTS` parts. By default, two levels have room for a
/// hundred thousand regions, and inserting a part moves no more than fits in a cache.
#[derive(Debug)]
pub(crate) enum ByStart<const MAX_PARTS: usize = 4096> {
    Leaf(Vec<Child>),
    /// Parts of the same height. Each has an address: no child before the part starts
    /// above it, and no child in the part starts below it.
    Inner(Vec<(u64, Self)>),
}

impl<const MAX_PARTS: usize> Default for ByStart<MAX_PARTS> {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl<const MAX_PARTS: usize> ByStart<MAX_PARTS> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(children) => children.len(),
            Self::Inner(parts) => parts.len(),
        }
    }

    /// The most entries of the node.
    fn max(&self) -> usize {
        match self {
            Self::Leaf(_) => MAX_CHILDREN,
            Self::Inner(_) => MAX_PARTS,
        }
    }

    /// Whether to join the node with a neighbour that has room for twice as many
    /// entries.
    fn is_small(&self) -> bool {
        self.len() < self.max() / 4
    }

    pub(crate) fn insert(&mut self, child: Child) {
        if let Some(right) = self.put(child, true) {
            let left = mem::take(self);
            // The first part has everything below the second.
            *self = Self::Inner(Vec::from([(0, left), right]));
        }
    }

    /// Inserts below this node. `last` says whether the node is the last of its
    /// height. Returns the part that no longer fits.
    fn put(&mut self, child: Child, last: bool) -> Option<(u64, Self)> {
        let start = child.range.start();
        match self {
            Self::Leaf(children) => {
                let at = children.partition_point(|other| other.range.start() <= start);
                let right = put_at(children, at, child, last, MAX_CHILDREN)?;
                Some((right.first()?.range.start(), Self::Leaf(right)))
            }
            Self::Inner(parts) => {
                let behind = parts.partition_point(|(first, _)| *first <= start);
                let last_part = last && behind == parts.len();
                let part = parts.get_mut(behind.saturating_sub(1))?;
                part.0 = part.0.min(start);
                let new = part.1.put(child, last_part)?;
                let right = put_at(parts, behind.max(1), new, last, MAX_PARTS)?;
                Some((right.first()?.0, Self::Inner(right)))
            }
        }
    }

    /// Removes the child with this start and placing.
    pub(crate) fn remove(&mut self, start: u64, placing: u64) {
        self.take(start, placing);
        while let Self::Inner(parts) = self {
            match parts.len() {
                0 => *self = Self::default(),
                1 => *self = parts.remove(0).1,
                _ => return,
            }
        }
    }

    /// Removes the child below this node. Returns whether it was there.
    fn take(&mut self, start: u64, placing: u64) -> bool {
        match self {
            Self::Leaf(children) => {
                let mut at = children.partition_point(|child| child.range.start() < start);
                while let Some(child) = children.get(at) {
                    if child.placing == placing {
                        children.remove(at);
                        return true;
                    }
                    if child.range.start() != start {
                        return false;
                    }
                    at += 1;
                }
                false
            }
            Self::Inner(parts) => {
                let mut at = first_with(parts, start);
                while let Some((_, part)) = parts.get_mut(at).filter(|part| part.0 <= start) {
                    if part.take(start, placing) {
                        if part.is_small() {
                            join(parts, at);
                        }
                        return true;
                    }
                    at += 1;
                }
                false
            }
        }
    }

    /// Appends the entries of the next node of the same height.
    fn append(&mut self, next: Self) {
        match (self, next) {
            (Self::Leaf(children), Self::Leaf(next)) => children.extend(next),
            (Self::Inner(parts), Self::Inner(next)) => parts.extend(next),
            // All leaves are of one height.
            _ => {}
        }
    }

    /// Calls `visit` for the children that start at `from` to `last`.
    pub(crate) fn for_each(&self, from: u64, last: u64, visit: &mut impl FnMut(&Child)) {
        match self {
            Self::Leaf(children) => {
                let at = children.partition_point(|child| child.range.start() < from);
                for child in children.get(at..).unwrap_or(&[]) {
                    if child.range.start() > last {
                        return;
                    }
                    visit(child);
                }
            }
            Self::Inner(parts) => {
                let at = first_with(parts, from);
                for (first, part) in parts.get(at..).unwrap_or(&[]) {
                    if *first > last {
                        return;
                    }
                    part.for_each(from, last, visit);
                }
            }
        }
    }

    /// As [`for_each`](Self::for_each), until `visit` returns false. Returns whether it
    /// never did.
    pub(crate) fn while_each(
        &self,
        from: u64,
        last: u64,
        visit: &mut impl FnMut(&Child) -> bool,
    ) -> bool {
        match self {
            Self::Leaf(children) => {
                let at = children.partition_point(|child| child.range.start() < from);
                let found = children.get(at..).unwrap_or(&[]).iter();
                let mut found = found.take_while(|child| child.range.start() <= last);
                found.all(visit)
            }
            Self::Inner(parts) => {
                let at = first_with(parts, from);
                let found = parts.get(at..).unwrap_or(&[]).iter();
                let mut found = found.take_while(|(first, _)| *first <= last);
                found.all(|(_, part)| part.while_each(from, last, visit))
            }
        }
    }
}

/// The first part that can have a child at or above `start`.
#[inline]
fn first_with<const MAX_PARTS: usize>(parts: &[(u64, ByStart<MAX_PARTS>)], start: u64) -> usize {
    let behind = parts.partition_point(|(first, _)| *first < start);
    behind.saturating_sub(1)
}

/// Inserts an entry. Returns the upper entries if there are too many.
#[inline]
fn put_at<T>(all: &mut Vec<T>, at: usize, entry: T, last: bool, max: usize) -> Option<Vec<T>> {
    if all.len() < max {
        all.insert(at, entry);
        return None;
    }
    Some(split(all, at, entry, last))
}

/// Inserts an entry into a full node. Returns the upper entries.
#[cold]
fn split<T>(all: &mut Vec<T>, at: usize, entry: T, last: bool) -> Vec<T> {
    // Insertions in ascending order leave full nodes behind.
    let left = if last && at == all.len() {
        at
    } else {
        all.len() / 2
    };
    let mut right = all.split_off(left);
    match at.checked_sub(left) {
        Some(at) => right.insert(at, entry),
        None => all.insert(at, entry),
    }
    right
}

/// Joins a part with a neighbour if the two fit in one node, or removes it if it is
/// empty.
#[cold]
fn join<const MAX_PARTS: usize>(parts: &mut Vec<(u64, ByStart<MAX_PARTS>)>, at: usize) {
    if parts.get(at).is_some_and(|(_, part)| part.is_empty()) {
        parts.remove(at);
        return;
    }
    for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
        let two = parts.get(left).zip(parts.get(left + 1));
        if two.is_some_and(|(a, b)| a.1.len() + b.1.len() <= a.1.max() / 4 * 3) {
            let (_, next) = parts.remove(left + 1);
            parts[left].1.append(next);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_ranges::AddrRange;

    use crate::ids::RegionId;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    /// Where it starts, and the number of its placing.
    type Key = (u64, u64);

    fn child((start, placing): Key) -> Child {
        Child {
            id: RegionId {
                index: 0,
                generation: 0,
            },
            range: AddrRange::from_bounds(start, start).unwrap(),
            priority: 0,
            placing,
        }
    }

    fn keys<const MAX_PARTS: usize>(tree: &ByStart<MAX_PARTS>, from: u64, last: u64) -> Vec<Key> {
        let mut keys = Vec::new();
        tree.for_each(from, last, &mut |child| {
            keys.push((child.range.start(), child.placing));
        });
        let mut until = Vec::new();
        assert!(tree.while_each(from, last, &mut |child| {
            until.push((child.range.start(), child.placing));
            true
        }));
        assert_eq!(until, keys);
        let (mut seen, half) = (0, keys.len() / 2);
        let all = tree.while_each(from, last, &mut |_| {
            seen += 1;
            seen <= half
        });
        assert_eq!(all, keys.is_empty());
        assert_eq!(seen, if keys.is_empty() { 0 } else { half + 1 });
        assert!(keys.is_sorted_by_key(|key| key.0));
        keys.sort_unstable();
        keys
    }

    /// Nothing too large, nothing empty below the root, leaves of one height.
    fn check<const MAX_PARTS: usize>(tree: &ByStart<MAX_PARTS>, is_root: bool) -> usize {
        assert!(tree.len() <= tree.max() && (is_root || !tree.is_empty()));
        match tree {
            ByStart::Leaf(_) => 1,
            ByStart::Inner(parts) => {
                assert!(!is_root || parts.len() > 1);
                // Neighbours that fit in one node are one.
                let small = |part: &(u64, ByStart<MAX_PARTS>)| part.1.is_small();
                assert!(!parts.windows(2).any(|two| two.iter().all(small)));
                let heights: Vec<_> = parts.iter().map(|part| check(&part.1, false)).collect();
                assert!(heights.windows(2).all(|two| two[0] == two[1]));
                heights[0] + 1
            }
        }
    }

    /// Fewer steps of fewer regions where each takes long, but more regions
    /// than a node has room for.
    const STEPS: usize = if cfg!(miri) { 4 } else { 12 };
    const COUNT: u64 = if cfg!(miri) { 100 } else { 300 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]
        #[test]
        fn regions_are_found_as_in_a_sorted_map(
            steps in prop::collection::vec((0_u64..400, 1..COUNT, 0_u64..4, 0..3), 1..STEPS),
            asked in prop::collection::vec((0_u64..1000, 0_u64..300), 1..20),
        ) {
            // Few parts, so that there are many levels.
            let (mut tree, mut map) = (ByStart::<8>::default(), BTreeMap::new());
            for (placing, (first, count, stride, how)) in (0..).zip(steps) {
                for n in 0..count {
                    // Forwards or backwards, several with one start.
                    let n = if how == 1 { count - 1 - n } else { n };
                    let start = first + n * stride / 2;
                    let placing = placing * 1000 + n;
                    let removed: Vec<Key> =
                        map.range((start, 0)..=(start, u64::MAX)).map(|(key, ())| *key).collect();
                    if how == 2 {
                        removed.iter().for_each(|key| {
                            tree.remove(key.0, key.1);
                            map.remove(key);
                        });
                        tree.remove(start, u64::MAX);
                    } else {
                        tree.insert(child((start, placing)));
                        map.insert((start, placing), ());
                    }
                    check(&tree, true);
                }
            }
            prop_assert_eq!(tree.is_empty(), map.is_empty());
            for (from, size) in asked {
                let range = (from, 0)..=(from + size, u64::MAX);
                let expected: Vec<Key> = map.range(range).map(|(key, ())| *key).collect();
                prop_assert_eq!(keys(&tree, from, from + size), expected);
            }
        }
    }

    #[test]
    fn a_hundred_thousand_regions_in_order_fill_few_levels_and_can_be_removed() {
        // Under Miri, a hundredth.
        let count = if cfg!(miri) { 1000 } else { 100_000 };
        let mut tree: ByStart = ByStart::default();
        (0..count).for_each(|n| tree.insert(child((n, n))));
        assert_eq!(check(&tree, true), 2);
        let some = count / 9 * 7;
        assert_eq!(
            keys(&tree, some, some + 1),
            [(some, some), (some + 1, some + 1)]
        );
        (0..count).rev().for_each(|n| tree.remove(n, n));
        assert!(tree.is_empty());
        assert_eq!(check(&tree, true), 1);
    }

    #[test]
    fn whole_levels_that_become_small_are_joined_and_lose_nothing() {
        let count = if cfg!(miri) { 2000 } else { 20_000 };
        let mut tree = ByStart::<8>::default();
        (0..count).for_each(|n| tree.insert(child((n, n))));
        let height = check(&tree, true);
        assert!(height > 3);
        // All but every 50th go, so that nodes of each level become small.
        let stays = |n: &u64| n % 50 == 0;
        for n in (0..count).filter(|n| !stays(n)) {
            tree.remove(n, n);
        }
        assert!(check(&tree, true) < height);
        let left: Vec<Key> = (0..count).filter(stays).map(|n| (n, n)).collect();
        assert_eq!(keys(&tree, 0, count), left);
    }
}
