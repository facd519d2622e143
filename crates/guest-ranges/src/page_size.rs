// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's page size: the unit of everything that the kernel maps or reports.

use core::fmt;

use crate::addr_range::AddrRange;

/// The page size of the host kernel.
///
/// The host's page size decides, not the guest's: `mmap`, memslots, dirty logs, memory
/// attributes and the ranges of a dma-buf all work in host pages. No host page is
/// smaller than [`PAGE_SIZE`](crate::PAGE_SIZE), the unit of guest page state; see
/// [the crate's page](crate#page-sizes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
// Exhaustive: the page sizes of the kernels that have KVM or VFIO.
pub enum PageSize {
    /// 4096 bytes: x86, and most arm64 and riscv kernels.
    Size4K,
    /// 16384 bytes: some arm64 kernels.
    Size16K,
    /// 65536 bytes: some arm64 and most ppc64 kernels.
    Size64K,
}

/// The error for a page size that no supported kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizeError {
    /// The size in bytes.
    pub bytes: u64,
}

impl fmt::Display for PageSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes;
        write!(
            f,
            "host page size {bytes:#x} is none of 4 KiB, 16 KiB and 64 KiB"
        )
    }
}

impl core::error::Error for PageSizeError {}

impl PageSize {
    /// All page sizes, the smallest first.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size16K, Self::Size64K];

    /// The page size of `bytes` bytes, as `sysconf(_SC_PAGESIZE)` gives it.
    ///
    /// # Errors
    /// [`PageSizeError`] for anything but 4096, 16384 and 65536.
    pub const fn new(bytes: u64) -> Result<Self, PageSizeError> {
        match bytes {
            0x1000 => Ok(Self::Size4K),
            0x4000 => Ok(Self::Size16K),
            0x1_0000 => Ok(Self::Size64K),
            _ => Err(PageSizeError { bytes }),
        }
    }

    /// The size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 0x1000,
            Self::Size16K => 0x4000,
            Self::Size64K => 0x1_0000,
        }
    }

    /// Whether a page starts at `address`. Also whether `address` bytes are whole pages.
    #[inline]
    pub const fn is_aligned(self, address: u64) -> bool {
        address & (self.bytes() - 1) == 0
    }

    /// The first address of the page that holds the byte at `address`.
    #[inline]
    pub const fn floor(self, address: u64) -> u64 {
        address & !(self.bytes() - 1)
    }

    /// The number of the page that holds the byte at `address`; also the number of whole
    /// pages in `address` bytes.
    #[inline]
    pub const fn number(self, address: u64) -> u64 {
        address / self.bytes()
    }

    /// The page that holds the byte at `address`.
    ///
    /// # Panics
    /// Never: a page ends behind its start.
    pub fn page_of(self, address: u64) -> AddrRange {
        let (first, last) = (self.floor(address), self.last_of_page(address));
        AddrRange::from_bounds(first, last).expect("a page ends behind its start")
    }

    /// Every page that holds a byte of `range`.
    ///
    /// # Panics
    /// Never: the pages hold the range.
    pub fn round_out(self, range: AddrRange) -> AddrRange {
        let (first, last) = (self.floor(range.start()), self.last_of_page(range.last()));
        AddrRange::from_bounds(first, last).expect("pages hold the range")
    }

    /// Every page whose bytes are all in `range`; `None` if there is none.
    pub fn round_in(self, range: AddrRange) -> Option<AddrRange> {
        let start = range.start().checked_next_multiple_of(self.bytes())?;
        let last = match range.last().checked_add(1) {
            Some(end) => self.floor(end).checked_sub(1)?,
            // The topmost page ends where addresses do.
            None => range.last(),
        };
        AddrRange::from_bounds(start, last)
    }

    const fn last_of_page(self, address: u64) -> u64 {
        address | (self.bytes() - 1)
    }
}

/// For example `64 KiB`.
impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.bytes() / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_known_sizes_are_page_sizes() {
        for page in PageSize::ALL {
            assert_eq!(PageSize::new(page.bytes()), Ok(page));
        }
        for bytes in [0, 1, 0xfff, 0x1001, 0x2000, u64::MAX] {
            assert_eq!(PageSize::new(bytes), Err(PageSizeError { bytes }));
        }
    }

    #[test]
    fn no_host_page_is_smaller_than_the_unit_of_guest_page_state() {
        for page in PageSize::ALL {
            assert_eq!(page.bytes() % crate::PAGE_SIZE, 0);
        }
    }

    #[test]
    fn rounding_at_the_top_of_the_address_space_does_not_wrap() {
        let page = PageSize::Size64K;
        let top = AddrRange::from_bounds(u64::MAX - 1, u64::MAX).unwrap();
        let topmost = AddrRange::from_bounds(u64::MAX - 0xffff, u64::MAX).unwrap();
        assert_eq!(page.page_of(u64::MAX), topmost);
        assert_eq!(page.round_out(top), topmost);
        assert_eq!(page.round_in(top), None);
        assert_eq!(page.round_in(topmost), Some(topmost));
    }

    #[test]
    fn rounding_in_drops_pages_that_are_only_partly_inside() {
        let range = AddrRange::new(0x800, 0x3000).unwrap();
        let inside = AddrRange::new(0x1000, 0x2000);
        assert_eq!(PageSize::Size4K.round_in(range), inside);
        let around = PageSize::Size4K.round_out(range);
        assert_eq!(Some(around), AddrRange::new(0, 0x4000));
        assert_eq!(PageSize::Size16K.round_in(range), None);
    }

    #[test]
    fn a_page_has_the_same_number_at_each_of_its_bytes() {
        for page in PageSize::ALL {
            let size = page.bytes();
            assert_eq!(page.number(5 * size - 1), 4);
            assert_eq!(page.number(5 * size), 5);
            assert_eq!(page.floor(6 * size - 1), 5 * size);
            assert!(page.is_aligned(5 * size) && !page.is_aligned(5 * size + size / 2));
        }
    }
}
