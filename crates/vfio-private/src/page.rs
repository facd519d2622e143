// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host page size, the finest grain at which anything can be mapped.

use core::fmt;

use crate::error::InputError;
use crate::span::Span;

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

    /// The page that holds the byte at `offset`; `None` for the topmost page of the 64-bit space,
    /// whose end no `u64` can name.
    pub(crate) const fn page_of(self, offset: u64) -> Option<Span> {
        let start = self.floor(offset);
        Span::between(start, start.wrapping_add(self.bytes()))
    }

    /// Every page that holds a byte of `span`.
    pub(crate) fn round_out(self, span: Span) -> Option<Span> {
        let end = span.end().checked_next_multiple_of(self.bytes())?;
        Span::between(self.floor(span.offset()), end)
    }

    /// Every page whose bytes are all in `span`; `None` if there are none.
    pub(crate) fn round_in(self, span: Span) -> Option<Span> {
        let start = span.offset().checked_next_multiple_of(self.bytes())?;
        Span::between(start, self.floor(span.end()))
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
    fn rounding_at_the_top_of_the_address_space_gives_nothing_rather_than_wrapping() {
        let page = PageSize::Size64K;
        let top = Span::between(u64::MAX - 1, u64::MAX).unwrap();
        assert_eq!(page.page_of(u64::MAX), None);
        assert_eq!(page.round_out(top), None);
        assert_eq!(page.round_in(top), None);
    }

    #[test]
    fn rounding_in_drops_pages_that_are_only_partly_inside() {
        let span = Span::between(0x800, 0x3800).unwrap();
        assert_eq!(
            PageSize::Size4K.round_in(span),
            Span::between(0x1000, 0x3000)
        );
        assert_eq!(PageSize::Size4K.round_out(span), Span::between(0, 0x4000));
        assert_eq!(PageSize::Size16K.round_in(span), None);
    }
}
