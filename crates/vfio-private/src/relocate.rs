// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Shows the MSI-X structures to the guest at another place than the device has them.

use guest_ranges::{AddrRange, PageSize};

use crate::bar::{Bar, BarKind};
use crate::error::ClassifyError;
use crate::msix::{Msix, MsixPart};

/// Where the guest finds MSI-X by [`MsixPlacement::Relocate`](crate::MsixPlacement::Relocate): behind
/// the end of the BAR that has the table, which the guest sees enlarged.
///
/// All bytes from [`emulated`](Self::emulated) on belong to the VMM and trap. Those below are the
/// device's, and [`classify`](crate::classify) returns their pieces. The capability that the guest
/// reads must name these places.
///
/// ```
/// use vfio_private::{Bar, BarIndex, BarKind, Msix, PageSize, Relocation};
///
/// let index = BarIndex::new(0)?;
/// let bar = Bar::new(index, BarKind::Memory, 0x1_0000)?;
/// let msix = Msix::with_vectors(129, (index, 0x5200), (index, 0xd600))?;
/// let relocation = Relocation::new(bar, msix, PageSize::Size4K)?;
/// assert_eq!(relocation.bar.size(), 0x2_0000);
/// assert_eq!(relocation.msix.table.range.dashed().to_string(), "0x10000-0x1080f");
/// assert_eq!(relocation.msix.pba.range.dashed().to_string(), "0x10810-0x10827");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relocation {
    /// The BAR as the guest sees it: at least twice as large. A 32-bit BAR may not find a place.
    pub bar: Bar,
    /// The structures as the guest sees them, both in this BAR.
    pub msix: Msix,
    /// The bytes that the device does not have.
    pub emulated: AddrRange,
}

impl Relocation {
    /// Puts the structures of `msix` behind the end of `bar`, which has its table, and on a host
    /// page of their own.
    ///
    /// # Errors
    ///
    /// [`ClassifyError::MsixInIoBar`] for an I/O BAR, [`ClassifyError::NoRoomForMsix`] for a BAR
    /// of 4 GiB or more: the capability cannot name a place behind its end.
    pub fn new(bar: Bar, msix: Msix, page: PageSize) -> Result<Self, ClassifyError> {
        let index = bar.index();
        if bar.kind() == BarKind::Io {
            return Err(ClassifyError::MsixInIoBar {
                bar: index,
                part: MsixPart::Table,
                range: msix.table.range,
            });
        }
        let enlarge = || {
            // Behind the last page of a BAR that is smaller than one.
            let start = bar.size().max(page.bytes());
            let table = AddrRange::new(start, msix.table.range.size())?;
            // A whole number of vectors of 16 bytes, so that the PBA is on its grid of 8.
            let pba = AddrRange::new(table.last().checked_add(1)?, msix.pba.range.size())?;
            // The capability has offsets of 32 bits.
            u32::try_from(pba.start()).ok()?;
            let size = pba.last().checked_add(1)?.checked_next_power_of_two()?;
            let mut moved = msix;
            (moved.table.bar, moved.table.range) = (index, table);
            (moved.pba.bar, moved.pba.range) = (index, pba);
            Some(Self {
                bar: Bar::new(index, BarKind::Memory, size).ok()?,
                msix: moved,
                emulated: AddrRange::from_bounds(bar.size(), size - 1)?,
            })
        };
        enlarge().ok_or(ClassifyError::NoRoomForMsix {
            bar: index,
            bar_size: bar.size(),
        })
    }
}
