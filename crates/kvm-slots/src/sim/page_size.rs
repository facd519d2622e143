// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page sizes of Linux.

use std::fmt;

/// A kernel's page size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4096 bytes.
    #[default]
    Size4K,
    /// 16384 bytes.
    Size16K,
    /// 65536 bytes.
    Size64K,
}

/// The error for a page size that no simulated kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizeError {
    /// The size in bytes.
    pub bytes: u64,
}

impl fmt::Display for PageSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no kernel has pages of {:#x} bytes", self.bytes)
    }
}

impl std::error::Error for PageSizeError {}

impl PageSize {
    /// All page sizes, by size.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size16K, Self::Size64K];

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 0x1000,
            Self::Size16K => 0x4000,
            Self::Size64K => 0x1_0000,
        }
    }

    /// The page size of this number of bytes.
    ///
    /// # Errors
    /// [`PageSizeError`] for other numbers.
    pub fn new(bytes: u64) -> Result<Self, PageSizeError> {
        let mut all = Self::ALL.into_iter();
        all.find(|size| size.bytes() == bytes)
            .ok_or(PageSizeError { bytes })
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Size4K => "4 KiB",
            Self::Size16K => "16 KiB",
            Self::Size64K => "64 KiB",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{PageSize, PageSizeError};

    #[test]
    fn every_page_size_is_found_by_its_bytes_and_no_other_number_is_one() {
        for size in PageSize::ALL {
            assert_eq!(PageSize::new(size.bytes()), Ok(size));
            assert_eq!(format!("{size}"), format!("{} KiB", size.bytes() / 1024));
        }
        for bytes in [0, 1, 4095, 8192, 1 << 32] {
            assert_eq!(PageSize::new(bytes), Err(PageSizeError { bytes }));
        }
    }
}
