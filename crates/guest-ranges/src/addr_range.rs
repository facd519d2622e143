// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A range of addresses that cannot be empty and cannot wrap.

use core::fmt;

/// A non-empty range of addresses in one address space.
///
/// Both ends are inclusive, so that a range can have every byte of a 64-bit space (2^64
/// bytes). Sizes are `u128` for the same reason.
///
/// ```
/// use guest_ranges::AddrRange;
///
/// let vga = AddrRange::new(0xa_0000, 0x2_0000).unwrap();
/// assert_eq!(vga.last(), 0xb_ffff);
/// assert_eq!(AddrRange::new(u64::MAX, 2), None); // would wrap
/// assert_eq!(AddrRange::new(0x1000, 0), None); // would be empty
/// assert_eq!(AddrRange::ALL.size(), 1 << 64);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrRange {
    start: u64,
    last: u64,
}

impl AddrRange {
    /// Every address of a 64-bit space.
    pub const ALL: Self = Self {
        start: 0,
        last: u64::MAX,
    };

    /// The `size` bytes from `start` on. `None` if `size` is 0 or the range ends past
    /// 2^64.
    #[inline]
    pub fn new(start: u64, size: u128) -> Option<Self> {
        let last = u128::from(start).checked_add(size.checked_sub(1)?)?;
        Some(Self {
            start,
            last: u64::try_from(last).ok()?,
        })
    }

    /// The bytes from `start` to `last`, both included. `None` if `last` is less than
    /// `start`.
    #[inline]
    pub const fn from_bounds(start: u64, last: u64) -> Option<Self> {
        if start <= last {
            Some(Self { start, last })
        } else {
            None
        }
    }

    /// The range moved up by `by` bytes, without what ends up past 2^64. `None` if all of
    /// it does.
    #[inline]
    pub fn moved_up(self, by: u64) -> Option<Self> {
        let start = self.start.checked_add(by)?;
        Self::from_bounds(start, self.last.saturating_add(by))
    }

    /// The range moved down by `by` bytes, without what ends up below 0. `None` if all of
    /// it does.
    #[inline]
    pub fn moved_down(self, by: u64) -> Option<Self> {
        let last = self.last.checked_sub(by)?;
        Self::from_bounds(self.start.saturating_sub(by), last)
    }

    /// The range with both ends moved up by `by` bytes, modulo 2^64. `None` if the last
    /// address is then less than the first.
    #[inline]
    pub fn wrapped_up(self, by: u64) -> Option<Self> {
        Self::from_bounds(self.start.wrapping_add(by), self.last.wrapping_add(by))
    }

    /// The bytes of `self` and then those of `next`; `None` if `next` does not
    /// start right behind.
    #[inline]
    pub fn joined(self, next: Self) -> Option<Self> {
        let touch = self.last.checked_add(1) == Some(next.start);
        touch.then_some(Self {
            start: self.start,
            last: next.last,
        })
    }

    /// Extends the range to end at `last`, if it ends before.
    #[inline]
    pub fn extend_to(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// The first address.
    #[inline]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The last address, which is in the range.
    #[inline]
    pub const fn last(self) -> u64 {
        self.last
    }

    /// The number of bytes: 1 to 2^64.
    pub fn size(self) -> u128 {
        u128::from(self.last - self.start) + 1
    }

    /// The number of bytes; `None` for [`ALL`](Self::ALL), whose 2^64 bytes do not
    /// fit.
    #[inline]
    pub const fn size_u64(self) -> Option<u64> {
        (self.last - self.start).checked_add(1)
    }

    /// Whether `address` is in the range.
    #[inline]
    pub fn contains(self, address: u64) -> bool {
        self.start <= address && address <= self.last
    }

    /// Whether the ranges have a byte in common. Ranges that only touch do not.
    #[inline]
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// Whether every byte of `other` is in the range.
    #[inline]
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// Displays the first and the last address with a dash between, as the kernel's
    /// log shows resources: `0x1000-0x1fff`.
    pub fn dashed(self) -> impl fmt::Display {
        Dashed(self)
    }

    /// The bytes that are in both ranges, if any.
    #[inline]
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::from_bounds(self.start.max(other.start), self.last.min(other.last))
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.start, self.last)
    }
}

struct Dashed(AddrRange);

impl fmt::Display for Dashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.0.start, self.0.last)
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_range_is_never_empty_and_never_wraps() {
        assert_eq!(AddrRange::new(0, 0), None);
        assert_eq!(AddrRange::new(u64::MAX, 0), None);
        assert_eq!(AddrRange::new(1, 1 << 64), None);
        assert_eq!(AddrRange::new(0, u128::MAX), None);
        assert_eq!(AddrRange::from_bounds(2, 1), None);
        assert_eq!(AddrRange::new(u64::MAX, 1).unwrap().size(), 1);
    }

    #[test]
    fn the_whole_space_has_two_to_the_64_bytes() {
        assert_eq!(AddrRange::new(0, 1 << 64), Some(AddrRange::ALL));
        assert_eq!(AddrRange::ALL.size(), 1 << 64);
        assert_eq!(AddrRange::ALL.size_u64(), None);
        let most = AddrRange::new(1, u64::MAX.into()).unwrap();
        assert_eq!(most.size_u64(), Some(u64::MAX));
    }

    #[test]
    fn a_range_shows_both_ends() {
        let page = AddrRange::new(0x1000, 0x1000).unwrap();
        assert_eq!(page.to_string(), "0x1000..=0x1fff");
        assert_eq!(page.dashed().to_string(), "0x1000-0x1fff");
    }

    #[test]
    fn moving_keeps_what_stays_inside_the_space() {
        let range = |start, size| AddrRange::new(start, size);
        let page = range(0x1000, 0x1000).unwrap();
        assert_eq!(page.moved_up(0x1000), range(0x2000, 0x1000));
        assert_eq!(page.moved_up(u64::MAX - 0x1000), range(u64::MAX, 1));
        assert_eq!(page.moved_up(u64::MAX - 0xfff), None);
        assert_eq!(page.moved_down(0x1000), range(0, 0x1000));
        assert_eq!(page.moved_down(0x1fff), range(0, 1));
        assert_eq!(page.moved_down(0x2000), None);
        assert_eq!(
            AddrRange::ALL.moved_up(1).unwrap().size(),
            u128::from(u64::MAX)
        );
        assert_eq!(
            AddrRange::ALL.moved_down(1).unwrap().size(),
            u128::from(u64::MAX)
        );
    }

    #[test]
    fn intersections_are_exact_at_both_ends() {
        let a = AddrRange::new(0x1000, 0x1000).unwrap();
        assert_eq!(a.intersect(AddrRange::new(0x2000, 1).unwrap()), None);
        assert_eq!(
            a.intersect(AddrRange::new(0x1fff, 2).unwrap()),
            AddrRange::new(0x1fff, 1)
        );
        assert!(a.covers(a) && AddrRange::ALL.covers(a) && !a.covers(AddrRange::ALL));
    }
}
