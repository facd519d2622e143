// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One pass over two sorted lists of ranges, and functions that derive from it.
//!
//! Lists are sorted by address, and the ranges of a list do not overlap. They may
//! touch. A list that breaks this rule yields wrong pieces, but the walk ends and
//! never panics.

use core::iter::{Fuse, Peekable};

use crate::addr_range::AddrRange;

/// A stretch of addresses that lies in one range of the left list, one of the right
/// list, or one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<L, R> {
    /// The addresses.
    pub range: AddrRange,
    /// The value of the left list's range, if it has one there.
    pub left: Option<L>,
    /// The value of the right list's range, if it has one there.
    pub right: Option<R>,
}

struct Walk<I: Iterator, J: Iterator> {
    left: Side<I>,
    right: Side<J>,
}

/// A list, with the rest of the range at its head.
struct Side<I: Iterator> {
    head: Option<I::Item>,
    rest: Fuse<I>,
}

impl<T: Copy, I: Iterator<Item = (AddrRange, T)>> Side<I> {
    fn new(list: impl IntoIterator<IntoIter = I>) -> Self {
        let mut rest = list.into_iter().fuse();
        Self {
            head: rest.next(),
            rest,
        }
    }

    /// Removes everything up to `last` from the head.
    fn consume(&mut self, last: u64) {
        self.head = match self.head {
            Some((range, value)) if last < range.last() => {
                // The next address exists: it is at most the range's last.
                let left = AddrRange::from_bounds(last + 1, range.last());
                left.map(|left| (left, value))
            }
            _ => self.rest.next(),
        };
    }
}

/// Walks two lists in one pass and yields every piece of addresses that is in either
/// list, by address.
///
/// Each list must be sorted by address, without overlaps; ranges may touch. Otherwise
/// the result is wrong, but the iterator ends and does not panic.
///
/// ```
/// use guest_ranges::{AddrRange, walk};
///
/// let range = |first, last| AddrRange::from_bounds(first, last).unwrap();
/// let ram = [(range(0, 9), "ram")];
/// let rom = [(range(5, 14), "rom")];
/// let pieces: Vec<_> = walk(ram, rom)
///     .map(|piece| (piece.range.start(), piece.left, piece.right))
///     .collect();
/// assert_eq!(
///     pieces,
///     [(0, Some("ram"), None), (5, Some("ram"), Some("rom")), (10, None, Some("rom"))],
/// );
/// ```
pub fn walk<L: Copy, R: Copy>(
    left: impl IntoIterator<Item = (AddrRange, L)>,
    right: impl IntoIterator<Item = (AddrRange, R)>,
) -> impl Iterator<Item = Piece<L, R>> {
    Walk {
        left: Side::new(left),
        right: Side::new(right),
    }
}

impl<L, R, I, J> Iterator for Walk<I, J>
where
    L: Copy,
    R: Copy,
    I: Iterator<Item = (AddrRange, L)>,
    J: Iterator<Item = (AddrRange, R)>,
{
    type Item = Piece<L, R>;

    fn next(&mut self) -> Option<Piece<L, R>> {
        let starts = [
            self.left.head.map(|head| head.0.start()),
            self.right.head.map(|head| head.0.start()),
        ];
        let start = starts.into_iter().flatten().min()?;
        let (left, left_end) = covers(self.left.head, start);
        let (right, right_end) = covers(self.right.head, start);
        let last = left_end.min(right_end);
        if left.is_some() {
            self.left.consume(last);
        }
        if right.is_some() {
            self.right.consume(last);
        }
        let range = AddrRange::from_bounds(start, last)?;
        Some(Piece { range, left, right })
    }
}

/// The value of a list at `start`, and the last address up to which it applies.
fn covers<T: Copy>(head: Option<(AddrRange, T)>, start: u64) -> (Option<T>, u64) {
    match head {
        None => (None, u64::MAX),
        Some((range, value)) if range.start() == start => (Some(value), range.last()),
        // The range is above `start`, so there is an address before it.
        Some((range, _)) => (None, range.start() - 1),
    }
}

/// The addresses that are in both lists.
///
/// Each list must be sorted by address, without overlaps; ranges may touch. Otherwise
/// the result is wrong, but the iterator ends and does not panic.
///
/// ```
/// use guest_ranges::{AddrRange, overlap};
///
/// let range = |first, last| AddrRange::from_bounds(first, last).unwrap();
/// assert!(overlap([range(0, 9)], [range(5, 14)]).eq([range(5, 9)]));
/// ```
pub fn overlap(
    left: impl IntoIterator<Item = AddrRange>,
    right: impl IntoIterator<Item = AddrRange>,
) -> impl Iterator<Item = AddrRange> {
    let both = |piece: &Piece<(), ()>| piece.left.is_some() && piece.right.is_some();
    walk(without_values(left), without_values(right))
        .filter(both)
        .map(|piece| piece.range)
}

/// The addresses of the left list that are not in the right list.
///
/// Each list must be sorted by address, without overlaps; ranges may touch. Otherwise
/// the result is wrong, but the iterator ends and does not panic.
///
/// ```
/// use guest_ranges::{AddrRange, subtract};
///
/// let range = |first, last| AddrRange::from_bounds(first, last).unwrap();
/// let rest = subtract([range(0, 9)], [range(3, 4), range(8, 20)]);
/// assert!(rest.eq([range(0, 2), range(5, 7)]));
/// ```
pub fn subtract(
    left: impl IntoIterator<Item = AddrRange>,
    right: impl IntoIterator<Item = AddrRange>,
) -> impl Iterator<Item = AddrRange> {
    let left_only = |piece: &Piece<(), ()>| piece.right.is_none();
    walk(without_values(left), without_values(right))
        .filter(left_only)
        .map(|piece| piece.range)
}

/// The addresses of `whole` that are not in the list.
///
/// The list must be sorted by address, without overlaps; ranges may touch. Otherwise
/// the result is wrong, but the iterator ends and does not panic.
///
/// ```
/// use guest_ranges::{AddrRange, gaps};
///
/// let range = |first, last| AddrRange::from_bounds(first, last).unwrap();
/// let free = gaps(range(0, 9), [range(3, 4), range(8, 20)]);
/// assert!(free.eq([range(0, 2), range(5, 7)]));
/// ```
pub fn gaps(
    whole: AddrRange,
    list: impl IntoIterator<Item = AddrRange>,
) -> impl Iterator<Item = AddrRange> {
    subtract([whole], list)
}

/// Joins ranges that touch or overlap. The list is sorted by first address.
///
/// ```
/// use guest_ranges::{AddrRange, coalesce};
///
/// let range = |first, last| AddrRange::from_bounds(first, last).unwrap();
/// let joined = coalesce([range(0, 4), range(5, 9), range(11, 12)]);
/// assert!(joined.eq([range(0, 9), range(11, 12)]));
/// ```
pub fn coalesce(list: impl IntoIterator<Item = AddrRange>) -> impl Iterator<Item = AddrRange> {
    Coalesced {
        list: list.into_iter().peekable(),
    }
}

struct Coalesced<I: Iterator> {
    list: Peekable<I>,
}

impl<I: Iterator<Item = AddrRange>> Iterator for Coalesced<I> {
    type Item = AddrRange;

    fn next(&mut self) -> Option<AddrRange> {
        let mut joined = self.list.next()?;
        let reaches =
            |joined: AddrRange, next: &AddrRange| next.start() <= joined.last().saturating_add(1);
        while let Some(next) = self.list.next_if(|next| reaches(joined, next)) {
            joined.extend_to(next.last());
        }
        Some(joined)
    }
}

fn without_values(
    list: impl IntoIterator<Item = AddrRange>,
) -> impl Iterator<Item = (AddrRange, ())> {
    list.into_iter().map(|range| (range, ()))
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A sorted list without overlaps, around both ends of the space.
    fn list() -> impl Strategy<Value = Vec<AddrRange>> {
        let steps = prop::collection::vec((0_u64..5, 1_u64..6), 0..7);
        (steps, any::<bool>()).prop_map(|(steps, high)| {
            let mut at = if high { u64::MAX - 40 } else { 0 };
            let mut ranges = Vec::new();
            for (gap, size) in steps {
                let Some(start) = at.checked_add(gap) else {
                    break;
                };
                let last = start.saturating_add(size - 1);
                ranges.extend(AddrRange::from_bounds(start, last));
                let Some(next) = last.checked_add(1) else {
                    break;
                };
                at = next;
            }
            ranges
        })
    }

    /// The index of the range that has each address.
    fn painted(list: &[AddrRange]) -> BTreeMap<u64, usize> {
        let addresses = |(n, range): (usize, &AddrRange)| {
            (range.start()..=range.last()).map(move |address| (address, n))
        };
        list.iter().enumerate().flat_map(addresses).collect()
    }

    fn numbered(list: &[AddrRange]) -> Vec<(AddrRange, usize)> {
        list.iter().copied().zip(0..).collect()
    }

    proptest! {
        #[test]
        fn a_walk_agrees_with_painting_every_address(left in list(), right in list()) {
            let (a, b) = (painted(&left), painted(&right));
            let mut seen = BTreeMap::new();
            for piece in walk(numbered(&left), numbered(&right)) {
                for address in piece.range.start()..=piece.range.last() {
                    let was = seen.insert(address, (piece.left, piece.right));
                    prop_assert_eq!(was, None);
                }
            }
            let addresses = a.keys().chain(b.keys());
            let expected: BTreeMap<_, _> = addresses
                .map(|at| (*at, (a.get(at).copied(), b.get(at).copied())))
                .collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn pieces_are_by_address_and_as_large_as_they_can_be(left in list(), right in list()) {
            let pieces: Vec<_> = walk(numbered(&left), numbered(&right)).collect();
            for pair in pieces.windows(2) {
                prop_assert!(pair[0].range.last() < pair[1].range.start());
                let touch = pair[0].range.last() + 1 == pair[1].range.start();
                let same = (pair[0].left, pair[0].right) == (pair[1].left, pair[1].right);
                prop_assert!(!(touch && same), "{:?}", pair);
            }
        }

        #[test]
        fn overlap_subtract_and_gaps_are_what_sets_of_addresses_say(
            left in list(), right in list()
        ) {
            let (a, b) = (painted(&left), painted(&right));
            let addresses = |ranges: Vec<AddrRange>| -> Vec<u64> {
                ranges.into_iter().flat_map(|r| r.start()..=r.last()).collect()
            };
            let both = overlap(left.iter().copied(), right.iter().copied()).collect();
            let common: Vec<u64> = a.keys().copied().filter(|at| b.contains_key(at)).collect();
            prop_assert_eq!(addresses(both), common);
            let rest = subtract(left.iter().copied(), right.iter().copied()).collect();
            let only: Vec<u64> = a.keys().copied().filter(|at| !b.contains_key(at)).collect();
            prop_assert_eq!(addresses(rest), only);
            let window = AddrRange::from_bounds(u64::MAX - 60, u64::MAX).unwrap();
            let free: Vec<u64> =
                (window.start()..=window.last()).filter(|at| !b.contains_key(at)).collect();
            let high = right.iter().copied().filter(|r| window.covers(*r));
            prop_assert_eq!(addresses(gaps(window, high).collect()), free);
        }

        #[test]
        fn coalesced_ranges_have_the_same_addresses_and_never_touch(list in list()) {
            let joined: Vec<AddrRange> = coalesce(list.iter().copied()).collect();
            let joined_addresses: Vec<u64> = painted(&joined).into_keys().collect();
            let addresses: Vec<u64> = painted(&list).into_keys().collect();
            prop_assert_eq!(joined_addresses, addresses);
            prop_assert!(joined.windows(2).all(|w| w[0].last() + 1 < w[1].start()));
        }
    }

    #[test]
    fn the_last_address_ends_a_walk() {
        let all = AddrRange::ALL;
        assert!(gaps(all, [all]).next().is_none());
        assert!(overlap([all], [all]).eq([all]));
        let top = AddrRange::from_bounds(u64::MAX, u64::MAX).unwrap();
        assert!(gaps(all, [top]).eq(AddrRange::from_bounds(0, u64::MAX - 1)));
        assert!(coalesce([all, top]).eq([all]));
    }
}
