// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The facts about one BAR: the classifier's input.

use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::bar::{Bar, InputError, range};
use crate::msix::{Msix, MsixParts};

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

/// The offset and the size.
impl From<(u64, u64)> for SparseArea {
    fn from((offset, size): (u64, u64)) -> Self {
        Self { offset, size }
    }
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

    /// A region without capabilities, whose `vfio_region_info` has these flags. Set the other fields
    /// for the capabilities that the region has; [`areas`](crate::areas#from-the-types-of-vfio-ioctls)
    /// has the code for `vfio-ioctls`.
    pub const fn of_flags(flags: u32) -> Self {
        Self {
            mmap: flags & crate::region_info::FLAG_MMAP != 0,
            sparse: None,
            msix_mappable: false,
        }
    }
}

/// The kind of a range in a TDISP interface report: the inverse of its `IS_NON_TEE_MEM` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: one bit of a reported range distinguishes the two.
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
    /// As for [`BarRange::new`](crate::BarRange::new).
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
