// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host page size: the smallest unit that can be mapped.

use core::fmt;

use guest_ranges::AddrRange;

use crate::bar::InputError;

/// The page size of the host kernel.
///
/// The host's page size decides, not the guest's: `mmap`, KVM's second-stage table and the ranges
/// of a dma-buf all work in host pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageSize {
    /// 4096 bytes: x86, and most arm64 and riscv kernels.
    Size4K,
    /// 16384 bytes: some arm64 kernels.
    Size16K,
    /// 65536 bytes: some arm64 and most ppc64 kernels.
    Size64K,
}

impl PageSize {
    /// The page size of `bytes` bytes, as `sysconf(_SC_PAGESIZE)` gives it.
    ///
    /// # Errors
    ///
    /// [`InputError::PageSize`] for anything but 4096, 16384 and 65536.
    pub const fn new(bytes: u64) -> Result<Self, InputError> {
        match bytes {
            0x1000 => Ok(Self::Size4K),
            0x4000 => Ok(Self::Size16K),
            0x1_0000 => Ok(Self::Size64K),
            _ => Err(InputError::PageSize { bytes }),
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 0x1000,
            Self::Size16K => 0x4000,
            Self::Size64K => 0x1_0000,
        }
    }

    /// Whether a page starts at `offset`.
    pub const fn is_aligned(self, offset: u64) -> bool {
        offset % self.bytes() == 0
    }

    /// The page that holds the byte at `offset`.
    pub(crate) fn page_of(self, offset: u64) -> AddrRange {
        let (first, last) = (self.floor(offset), self.last_of_page(offset));
        AddrRange::from_bounds(first, last).expect("a page ends behind its start")
    }

    /// Every page that holds a byte of `range`.
    pub fn round_out(self, range: AddrRange) -> AddrRange {
        let (first, last) = (self.floor(range.start()), self.last_of_page(range.last()));
        AddrRange::from_bounds(first, last).expect("pages hold the range")
    }

    /// Every page whose bytes are all in `range`; `None` if there are none.
    pub(crate) fn round_in(self, range: AddrRange) -> Option<AddrRange> {
        let start = range.start().checked_next_multiple_of(self.bytes())?;
        let last = match range.last().checked_add(1) {
            Some(end) => self.floor(end).checked_sub(1)?,
            // The topmost page ends where offsets do.
            None => range.last(),
        };
        AddrRange::from_bounds(start, last)
    }

    const fn last_of_page(self, offset: u64) -> u64 {
        offset | (self.bytes() - 1)
    }

    const fn floor(self, offset: u64) -> u64 {
        offset - offset % self.bytes()
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
        for page in [PageSize::Size4K, PageSize::Size16K, PageSize::Size64K] {
            assert_eq!(PageSize::new(page.bytes()), Ok(page));
        }
        for bytes in [0, 1, 0xfff, 0x1001, 0x2000, u64::MAX] {
            assert_eq!(PageSize::new(bytes), Err(InputError::PageSize { bytes }));
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
}
