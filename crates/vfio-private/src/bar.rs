// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A BAR: its number, its size and bytes of it. [`InputError`] refuses numbers that no device has.

use core::fmt;

use guest_ranges::AddrRange;
use thiserror::Error;

/// The number of a BAR in a type 0 configuration header: 0 to 5.
///
/// VFIO numbers the regions of the BARs the same way, and MSI-X names them by it (the BIR).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BarIndex(u8);

impl BarIndex {
    /// How many BARs a device can have.
    pub const COUNT: u8 = 6;

    /// The BAR with number `index`.
    ///
    /// # Errors
    ///
    /// [`InputError::NoSuchBar`] from 6 on; an MSI-X BIR of 6 or 7 is reserved.
    pub const fn new(index: u8) -> Result<Self, InputError> {
        if index < Self::COUNT {
            Ok(Self(index))
        } else {
            Err(InputError::NoSuchBar { index })
        }
    }

    /// The number, 0 to 5.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// For example `BAR 0`.
impl fmt::Display for BarIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BAR {}", self.0)
    }
}

/// The address space a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: one bit of a BAR's register distinguishes the two.
pub enum BarKind {
    /// Memory, 32-bit or 64-bit, prefetchable or not.
    Memory,
    /// I/O ports.
    Io,
}

/// An implemented BAR: number, size and address space.
///
/// The size is a power of two, as the PCI specification has it: a BAR is sized by the address bits
/// it leaves to software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bar {
    index: BarIndex,
    // Starts at 0, so its last byte tells the size.
    extent: AddrRange,
    kind: BarKind,
}

impl Bar {
    /// A BAR of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`InputError::BarSize`] if `size` is not a power of two. Size 0, of an unimplemented BAR, is
    /// refused too.
    pub const fn new(index: BarIndex, kind: BarKind, size: u64) -> Result<Self, InputError> {
        if !size.is_power_of_two() {
            return Err(InputError::BarSize { bar: index, size });
        }
        match AddrRange::from_bounds(0, size - 1) {
            Some(extent) => Ok(Self {
                index,
                extent,
                kind,
            }),
            None => Err(InputError::BarSize { bar: index, size }),
        }
    }

    /// The number of the BAR.
    pub const fn index(self) -> BarIndex {
        self.index
    }

    /// The size in bytes, a power of two.
    pub const fn size(self) -> u64 {
        // A power of two, so at most 2^63.
        self.extent.last() + 1
    }

    /// Memory or I/O.
    pub const fn kind(self) -> BarKind {
        self.kind
    }

    /// All bytes of the BAR, from offset 0 on.
    pub const fn extent(self) -> AddrRange {
        self.extent
    }
}

/// Bytes of a named BAR.
///
/// ```
/// use vfio_private::{BarIndex, BarRange, InputError};
///
/// let bar = BarIndex::new(0)?;
/// let table = BarRange::new(bar, 0x2000, 0x210)?;
/// assert_eq!(table.range.last(), 0x220f);
/// assert_eq!(table.to_string(), "0x2000-0x220f of BAR 0");
/// let empty = BarRange::new(bar, 0x2000, 0);
/// assert_eq!(empty, Err(InputError::EmptyRange { offset: 0x2000 }));
/// # Ok::<(), InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BarRange {
    /// The BAR.
    pub bar: BarIndex,
    /// The bytes, as offsets from the start of the BAR.
    pub range: AddrRange,
}

impl BarRange {
    /// The `size` bytes from `offset` on in `bar`. They need not fit the BAR, whose size is not
    /// known here.
    ///
    /// # Errors
    ///
    /// [`InputError::EmptyRange`] for a size of 0, [`InputError::RangeWraps`] if offset plus size
    /// does not fit a `u64`.
    pub fn new(bar: BarIndex, offset: u64, size: u64) -> Result<Self, InputError> {
        let range = range(offset, size)?;
        Ok(Self { bar, range })
    }
}

/// For example `0x2000-0x220f of BAR 0`.
impl fmt::Display for BarRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.range.dashed(), self.bar)
    }
}

/// No BAR reaches the last byte of a 64-bit space, so that its end fits, too.
pub(crate) fn range(offset: u64, size: u64) -> Result<AddrRange, InputError> {
    if size == 0 {
        return Err(InputError::EmptyRange { offset });
    }
    let fits = offset.checked_add(size).is_some();
    let range = AddrRange::new(offset, size.into()).filter(|_| fits);
    range.ok_or(InputError::RangeWraps { offset, size })
}

/// A number that is not valid for its input type. Raised when a value of that type is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InputError {
    /// A range without bytes.
    #[error("range at {offset:#x} is empty")]
    EmptyRange {
        /// Where the range would start, in bytes.
        offset: u64,
    },
    /// A range whose end does not fit 64 bits.
    #[error("range of {size:#x} bytes at {offset:#x} wraps around")]
    RangeWraps {
        /// Where the range would start, in bytes.
        offset: u64,
        /// How many bytes it would hold.
        size: u64,
    },
    /// A BAR number above 5.
    #[error("there is no BAR {index}, only 0 to 5")]
    NoSuchBar {
        /// The number.
        index: u8,
    },
    /// A BAR size that is not a power of two.
    #[error("{bar} has {size:#x} bytes, which is not a power of two")]
    BarSize {
        /// The BAR.
        bar: BarIndex,
        /// The size in bytes.
        size: u64,
    },
    /// A number of MSI-X vectors that no device has.
    #[error("{vectors} MSI-X vectors are not between 1 and 2048")]
    MsixVectors {
        /// The number.
        vectors: u16,
    },
    /// An MSI-X structure off the grid of 8 bytes.
    #[error("MSI-X structure at {offset:#x} of {bar} is not at a multiple of 8 bytes")]
    MsixOffset {
        /// The BAR.
        bar: BarIndex,
        /// Where the structure would be, in bytes.
        offset: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_six_bars() {
        assert_eq!(BarIndex::new(5).map(BarIndex::get), Ok(5));
        for index in [6, 7, u8::MAX] {
            assert_eq!(BarIndex::new(index), Err(InputError::NoSuchBar { index }));
        }
    }

    #[test]
    fn a_range_reaches_up_to_the_last_offset_but_not_around_it() {
        let new = |offset, size| BarRange::new(BarIndex::new(0).unwrap(), offset, size);
        let top = new(u64::MAX - 1, 1).unwrap();
        assert_eq!(top.range.last(), u64::MAX - 1);
        for (offset, size) in [(u64::MAX, 1), (1, u64::MAX)] {
            let wraps = InputError::RangeWraps { offset, size };
            assert_eq!(new(offset, size), Err(wraps));
        }
        let most = new(0, u64::MAX).unwrap();
        assert_eq!(most.range.size_u64(), Some(u64::MAX));
        let empty = InputError::EmptyRange { offset: 0 };
        assert_eq!(new(0, 0), Err(empty));
    }

    #[test]
    fn a_bar_has_the_size_of_a_power_of_two() {
        let bar = BarIndex::new(0).unwrap();
        for size in [0, 3, 0x3000, u64::MAX] {
            let error = Err(InputError::BarSize { bar, size });
            assert_eq!(Bar::new(bar, BarKind::Memory, size), error);
        }
        let largest = Bar::new(bar, BarKind::Memory, 1 << 63).unwrap();
        assert_eq!(largest.size(), 1 << 63);
    }
}
