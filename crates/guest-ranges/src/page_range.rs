// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole pages of guest-physical addresses.

use core::fmt;

use crate::addr_range::AddrRange;
use crate::page_size::PageSize;

/// The unit of guest page state in bytes: the smallest piece of memory that can be
/// private or accepted. It does not depend on the host, whose pages can be larger
/// ([`PageSize`]); see [the crate's page](crate#page-sizes).
pub const PAGE_SIZE: u64 = 4096;

/// One or more units of guest page state ([`PAGE_SIZE`], 4 KiB), next to each other.
///
/// A host with larger pages can only change whole host pages: see
/// [`is_whole`](Self::is_whole).
///
/// The end is exclusive and a `u64`, so the range cannot include the last page of a
/// 64-bit space. `KVM_SET_MEMORY_ATTRIBUTES` refuses that page, too
/// (`kvm_vm_ioctl_set_mem_attributes` in virt/kvm/kvm_main.c).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    start: u64,
    end: u64,
}

/// Why numbers do not form a range of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageRangeError {
    /// The range is empty.
    Empty {
        /// The first address.
        gpa: u64,
    },
    /// The range does not consist of whole pages of 4 KiB.
    Unaligned {
        /// The first address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// The range does not end below 2^64.
    Wraps {
        /// The first address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
}

impl fmt::Display for PageRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { gpa } => write!(f, "no pages at {gpa:#x}"),
            Self::Unaligned { gpa, size } => {
                write!(f, "{size:#x} bytes at {gpa:#x} are not whole pages")
            }
            Self::Wraps { gpa, size } => {
                write!(f, "{size:#x} bytes at {gpa:#x} do not end below 2^64")
            }
        }
    }
}

impl core::error::Error for PageRangeError {}

impl PageRange {
    /// The `size` bytes from `gpa` on.
    ///
    /// # Errors
    /// [`PageRangeError`] for an empty range, half a page, or an end at or above 2^64.
    pub fn new(gpa: u64, size: u64) -> Result<Self, PageRangeError> {
        if size == 0 {
            return Err(PageRangeError::Empty { gpa });
        }
        if gpa % PAGE_SIZE != 0 || size % PAGE_SIZE != 0 {
            return Err(PageRangeError::Unaligned { gpa, size });
        }
        match gpa.checked_add(size) {
            Some(end) => Ok(Self { start: gpa, end }),
            None => Err(PageRangeError::Wraps { gpa, size }),
        }
    }

    /// The pages from `start` up to `end`. `None` if there is no page, or if one of the
    /// two is not the start of a page.
    #[inline]
    pub fn between(start: u64, end: u64) -> Option<Self> {
        let aligned = (start | end) % PAGE_SIZE == 0;
        (start < end && aligned).then_some(Self { start, end })
    }

    /// The pages that lie entirely in `range`, below 2^64 - 4096. `None` if there is
    /// none.
    pub fn inside(range: AddrRange) -> Option<Self> {
        let end = range.last().saturating_add(1) & !(PAGE_SIZE - 1);
        Self::between(range.start().checked_next_multiple_of(PAGE_SIZE)?, end)
    }

    /// The pages that hold a byte of `range`, but for the last page below 2^64. `None`
    /// if there is no other.
    pub fn touching(range: AddrRange) -> Option<Self> {
        let page_of = |address: u64| address & !(PAGE_SIZE - 1);
        let last = page_of(range.last());
        let end = last.checked_add(PAGE_SIZE).unwrap_or(last);
        Self::between(page_of(range.start()), end)
    }

    /// The first address.
    #[inline]
    pub fn start(self) -> u64 {
        self.start
    }

    /// The first address past the range.
    #[inline]
    pub fn end(self) -> u64 {
        self.end
    }

    /// The number of bytes.
    #[inline]
    pub fn size(self) -> u64 {
        self.end - self.start
    }

    /// The number of units of 4 KiB. Where the kernel counts pages, use
    /// [`PageSize::number`].
    pub fn pages(self) -> u64 {
        self.size() / PAGE_SIZE
    }

    /// Whether the range consists of whole host pages.
    #[inline]
    pub fn is_whole(self, page: PageSize) -> bool {
        page.is_aligned(self.start | self.end)
    }

    /// The host pages that lie entirely in the range. `None` if there is none.
    pub fn whole(self, page: PageSize) -> Option<Self> {
        let start = self.start.checked_next_multiple_of(page.bytes())?;
        Self::between(start, page.floor(self.end))
    }

    /// Whether the page at `gpa` is in the range.
    pub fn contains(self, gpa: u64) -> bool {
        self.start <= gpa && gpa < self.end
    }

    /// The pages that both ranges have, if any.
    #[inline]
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }
}

/// The same addresses.
impl From<PageRange> for AddrRange {
    #[inline]
    fn from(pages: PageRange) -> Self {
        // Pages are never none, so the fallback is never used.
        Self::from_bounds(pages.start, pages.end - 1).unwrap_or(Self::ALL)
    }
}

/// The same addresses, if they are whole pages and end below 2^64.
impl TryFrom<AddrRange> for PageRange {
    type Error = PageRangeError;

    fn try_from(range: AddrRange) -> Result<Self, PageRangeError> {
        let (gpa, more) = (range.start(), range.last() - range.start());
        match more.checked_add(1) {
            Some(size) => Self::new(gpa, size),
            None => Err(PageRangeError::Wraps {
                gpa,
                size: u64::MAX,
            }),
        }
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_the_pages_of_its_first_and_last_byte_and_those_between() {
        let touched = |first, last| {
            let range = AddrRange::from_bounds(first, last).unwrap();
            PageRange::touching(range).map(|pages| (pages.start(), pages.end()))
        };
        assert_eq!(touched(0x1000, 0x1fff), Some((0x1000, 0x2000)));
        assert_eq!(touched(0x1fff, 0x2000), Some((0x1000, 0x3000)));
        let top = u64::MAX - 0xfff;
        assert_eq!(touched(0, u64::MAX), Some((0, top)));
        assert_eq!(touched(top - 1, u64::MAX), Some((top - 0x1000, top)));
        assert_eq!(touched(top, u64::MAX), None);
    }

    #[test]
    fn a_page_range_is_never_empty_and_ends_below_the_top() {
        assert_eq!(PageRange::new(0, 0), Err(PageRangeError::Empty { gpa: 0 }));
        let top = 0_u64.wrapping_sub(PAGE_SIZE);
        let wraps = PageRangeError::Wraps {
            gpa: top,
            size: PAGE_SIZE,
        };
        assert_eq!(PageRange::new(top, PAGE_SIZE), Err(wraps));
        assert_eq!(PageRange::between(4096, 4096), None);
        assert_eq!(PageRange::between(1, 4096), None);
    }

    #[test]
    fn half_pages_at_the_ends_are_not_inside() {
        let inside = |first, last| PageRange::inside(AddrRange::from_bounds(first, last).unwrap());
        assert_eq!(inside(1, 0x2fff), PageRange::between(0x1000, 0x3000));
        assert_eq!(inside(1, 0x1ffe), None);
        let below_the_last = 0_u64.wrapping_sub(PAGE_SIZE);
        assert_eq!(inside(0, u64::MAX), PageRange::between(0, below_the_last));
        assert_eq!(inside(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn only_whole_host_pages_are_whole() {
        let pages = |start, end| PageRange::between(start, end).unwrap();
        let all = pages(0x3000, 0x2_5000);
        assert!(all.is_whole(PageSize::Size4K));
        assert!(!all.is_whole(PageSize::Size16K));
        assert_eq!(all.whole(PageSize::Size4K), Some(all));
        assert_eq!(all.whole(PageSize::Size16K), Some(pages(0x4000, 0x2_4000)));
        assert_eq!(
            all.whole(PageSize::Size64K),
            Some(pages(0x1_0000, 0x2_0000))
        );
        // A multiple of the page's size, at a place where no page starts.
        let shifted = pages(0x1000, 0x5000);
        assert!(!shifted.is_whole(PageSize::Size16K));
        assert_eq!(shifted.whole(PageSize::Size16K), None);
        let top = 0_u64.wrapping_sub(PAGE_SIZE);
        assert_eq!(pages(top - PAGE_SIZE, top).whole(PageSize::Size16K), None);
    }

    #[test]
    fn pages_are_the_same_addresses_as_a_range_and_back() {
        let pages = PageRange::new(0x2000, 0x3000).unwrap();
        let range = AddrRange::from(pages);
        assert_eq!((range.start(), range.last()), (0x2000, 0x4fff));
        assert_eq!(PageRange::try_from(range), Ok(pages));
        assert!(PageRange::try_from(AddrRange::ALL).is_err());
    }
}
