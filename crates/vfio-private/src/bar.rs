// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The facts about one BAR: the classifier's input.

use core::fmt;

use guest_ranges::AddrRange;

use crate::error::InputError;
use crate::msix::{Msix, MsixParts};

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

/// One area of VFIO's sparse-mmap capability, as the kernel reports it.
///
/// Unlike an [`AddrRange`] it may be empty, since drivers do report such areas, and may lie anywhere.
/// [`classify`](crate::classify) ignores the empty ones and rejects the rest if they leave the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SparseArea {
    /// Bytes from the start of the region.
    pub offset: u64,
    /// Size in bytes; 0 means nothing.
    pub size: u64,
}

/// What VFIO reports about the region of a BAR (`VFIO_DEVICE_GET_REGION_INFO`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// The region's mmap flag. Without it no part can be mapped, whatever the other fields are.
    pub mmap: bool,
    /// The sparse-mmap capability: only bytes inside an area can be mapped. Without the capability
    /// (`None`) the mmap flag applies to the whole region. With an empty list nothing can be mapped.
    /// The order is free, and areas may touch or overlap.
    pub sparse: Option<Vec<SparseArea>>,
    /// The MSI-X-mappable capability: VFIO does not refuse to map the pages of the MSI-X table.
    /// The table is trapped all the same; see [`Reason::MsixNotMappable`](crate::Reason).
    pub msix_mappable: bool,
}

impl Region {
    /// A region that VFIO lets userspace map as a whole, the MSI-X table included.
    pub const fn mappable() -> Self {
        Self {
            mmap: true,
            sparse: None,
            msix_mappable: true,
        }
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
fn range(offset: u64, size: u64) -> Result<AddrRange, InputError> {
    if size == 0 {
        return Err(InputError::EmptyRange { offset });
    }
    let fits = offset.checked_add(size).is_some();
    let range = AddrRange::new(offset, size.into()).filter(|_| fits);
    range.ok_or(InputError::RangeWraps { offset, size })
}

/// The kind of a range in a TDISP interface report: the inverse of its `IS_NON_TEE_MEM` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TeeKind {
    /// Only the confidential guest may reach the range: `IS_NON_TEE_MEM` clear.
    Tee,
    /// Anyone may reach the range: `IS_NON_TEE_MEM` set.
    NonTee,
}

/// One MMIO range of a TDISP interface report, converted to an offset in its BAR.
///
/// The report itself counts in units of 4 KiB and adds a reporting offset to every address;
/// [`InterfaceReport::place`](crate::InterfaceReport::place) undoes that. Ranges of the same kind may
/// overlap, ranges of different kinds may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReportedRange {
    /// The bytes, from the start of the BAR.
    pub range: AddrRange,
    /// Whether they belong to the guest's trusted environment.
    pub kind: TeeKind,
    /// The MSI-X structures that the device reports to be in the range. A marked range must hold at
    /// least a byte of the structure.
    pub msix: MsixParts,
}

impl ReportedRange {
    /// The `size` bytes from `offset` on in a BAR, without a mark for MSI-X structures.
    ///
    /// # Errors
    ///
    /// As for [`BarRange::new`].
    pub fn new(offset: u64, size: u64, kind: TeeKind) -> Result<Self, InputError> {
        Ok(Self {
            range: range(offset, size)?,
            kind,
            msix: MsixParts::NONE,
        })
    }

    /// The same range, marked to hold these MSI-X structures.
    #[must_use]
    pub const fn with_msix(self, msix: MsixParts) -> Self {
        Self { msix, ..self }
    }

    /// Whether the device has locked MSI-X structures in the range although it is not TEE memory.
    ///
    /// A device marks its MSI-X structures if the host asked it to lock them (`LOCK_MSIX`). It then
    /// rejects accesses to them without the trusted bit, which the host's accesses lack. So a VMM
    /// that traps the guest's accesses may be unable to carry them out, and only interrupts set up
    /// before the lock may work. [`classify`](crate::classify) traps the range nevertheless.
    pub fn locks_host_out(&self) -> bool {
        self.kind == TeeKind::NonTee && self.msix != MsixParts::NONE
    }
}

/// Everything that [`classify`](crate::classify) knows about one BAR.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BarInput<'a> {
    /// The BAR.
    pub bar: Bar,
    /// What VFIO reports about its region.
    pub region: &'a Region,
    /// The device's MSI-X structures, in this BAR or another; `None` without the capability.
    pub msix: Option<Msix>,
    /// The ranges of this BAR in the device's TDISP report. Without a report (`None`) nothing is
    /// private. An empty list is a report that does not mention this BAR: a memory BAR is then
    /// blocked, except for trapped MSI-X pages. For an I/O BAR, which a report never lists, the two
    /// are the same.
    pub report: Option<&'a [ReportedRange]>,
}

impl<'a> BarInput<'a> {
    /// A BAR of a device without MSI-X, and without a report.
    pub const fn new(bar: Bar, region: &'a Region) -> Self {
        Self {
            bar,
            region,
            msix: None,
            report: None,
        }
    }

    /// The same BAR of a device with these MSI-X structures; `None` without the capability.
    #[must_use]
    pub const fn with_msix(self, msix: Option<Msix>) -> Self {
        Self { msix, ..self }
    }

    /// The same BAR with the ranges that a report has for it; `None` without a report.
    #[must_use]
    pub const fn with_report(self, report: Option<&'a [ReportedRange]>) -> Self {
        Self { report, ..self }
    }
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
