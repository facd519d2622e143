// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The areas of a device's BARs: what to map, what to trap, what other devices may reach.
//!
//! This is the entry point for a VMM that maps BARs itself. [`classify`](crate::classify) decides, and
//! this module keeps the decision in bounded arrays and answers the questions that follow:
//!
//! | question | answer |
//! | --- | --- |
//! | which areas does a BAR have? | [`BarAreas::carve`] |
//! | which of them are mapped, trapped, reached by other devices? | [`BarAreas::mapped`], [`trapped`](BarAreas::trapped), [`dma`](BarAreas::dma) |
//! | which area is the access of a vCPU in? | [`DeviceAreas::find`] |
//! | by which mapping do other devices reach these addresses? | [`DeviceAreas::find_dma`] |
//! | the guest moves BARs or switches decoding: what is unmapped, what is mapped? | [`AreaChange`] |
//!
//! None of this allocates. Carving does only for a TDISP report or more than 16 sparse-mmap areas.
//! There is room for [`CAPACITY`] areas in a BAR, or for as many as the caller chooses
//! ([`BarAreas::carve_bounded`]). A BAR with more is an error, since an area that is left out would
//! neither be mapped nor trapped.
//!
//! # Example
//!
//! A guest moves the BAR of an NVMe-like disk.
//!
//! ```
//! use vfio_private::areas::{AreaChange, BarAreas, DeviceAreas};
//! use vfio_private::{Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region};
//!
//! let index = BarIndex::new(0)?;
//! let bar = Bar::new(index, BarKind::Memory, 0x4000)?;
//! let region = Region::mappable();
//! let msix = Msix::with_vectors(33, (index, 0x2000), (index, 0x2800))?;
//! let input = BarInput::new(bar, &region).with_msix(Some(msix));
//! let areas = BarAreas::carve(&input, PageSize::Size4K, Policy::new())?;
//!
//! // At boot: the BAR gets an address, and memory decoding is switched on.
//! let none = DeviceAreas::new([areas])?;
//! let device = none.moved(index, Some(0xe000_0000))?.with_decoding(true)?;
//! let boot = AreaChange::between(&none, &device);
//! assert_eq!((boot.unmaps().count(), boot.maps().count(), boot.dma_maps().count()), (0, 2, 2));
//!
//! // A vCPU exits: the access is to the page of the MSI-X table.
//! let found = device.find(0xe000_2010, 4)?;
//! assert_eq!((found.bar, found.offset), (index, 0x2010));
//!
//! // The guest moves the BAR. Unmap first, and in the IOMMU as well.
//! let moved = device.moved(index, Some(0xf000_0000))?;
//! let change = AreaChange::between(&device, &moved);
//! assert_eq!(
//!     change.to_string(),
//!     "unmap BAR 0 + 0x0-0x1fff shared at 0xe0000000-0xe0001fff\n\
//!      unmap BAR 0 + 0x3000-0x3fff shared at 0xe0003000-0xe0003fff\n\
//!      map BAR 0 + 0x0-0x1fff shared at 0xf0000000-0xf0001fff\n\
//!      map BAR 0 + 0x3000-0x3fff shared at 0xf0003000-0xf0003fff",
//! );
//! assert!(change.dma_unmaps().eq(change.unmaps()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # From the types of `vfio-ioctls`
//!
//! [`Region::of_flags`](crate::Region::of_flags) takes the flags of a region. What
//! `VfioDevice::get_region_caps` returns completes it:
//!
//! ```text
//! let mut region = Region::of_flags(device.get_region_flags(index));
//! for cap in device.get_region_caps(index) {
//!     match cap {
//!         VfioRegionInfoCap::MsixMappable => region.msix_mappable = true,
//!         VfioRegionInfoCap::SparseMmap(cap) => {
//!             region.sparse = Some(cap.areas.iter().map(|a| (a.offset, a.size).into()).collect());
//!         }
//!         _ => {}
//!     }
//! }
//! ```
//!
//! `vfio-ioctls` 0.10 leaves out a region that it cannot query, and logs an error. Each later region
//! then has the index of the one before it.
//!
//! The bytes of the ioctl itself are parsed by [`RegionInfo`](crate::region_info::RegionInfo), and
//! the registers of the MSI-X capability are converted by
//! [`Msix::from_registers`](crate::Msix::from_registers).
//!
//! # BARs that are smaller than a host page
//!
//! With [`SubPagePolicy::Expand`](crate::SubPagePolicy::Expand), such a BAR is mapped with its whole
//! host page, which the kernel has reserved for it. `Device::map` and `Device::map_piece` (feature
//! `device`) map the page. In the guest's memory, the page must be free as well. If a guest with smaller
//! pages puts the BAR off the host's pages, or another BAR of the device into the same page, the BAR
//! traps at that place. Only the VMM knows what else is there.
//!
//! # What this module does not do
//!
//! It maps nothing, and does not know what else is in the guest's memory: BARs of other devices and
//! RAM are for the VMM to keep apart, for example with the crate `memory-model`.
//!
//! The crates `kvm-slots` and `vfio-dma` carry the lists out, and roll back if a step fails. With the
//! feature `vfio-dma`, `AreaChange::dma_lists` converts them to a `DmaChange`. For `kvm-slots`, an area
//! is one `SlotRange`. The example `bar_move` does both.

mod bar_areas;
mod change;
mod device_areas;
#[cfg(feature = "vfio-dma")]
mod dma;
mod error;
mod mapped;

use crate::bar::BarIndex;
use crate::piece::Piece;

pub use bar_areas::BarAreas;
pub use change::AreaChange;
pub use device_areas::DeviceAreas;
#[cfg(feature = "vfio-dma")]
pub use dma::{AreaDmaError, DmaLists};
pub use error::{AreaAccessError, AreasError, PlaceError};
pub use mapped::{MappedArea, PlacedArea};

/// How many areas a BAR can have by default. Five suffice for a device with MSI-X and without
/// sparse-mmap areas.
pub const CAPACITY: usize = 16;

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FoundArea {
    /// The BAR.
    pub bar: BarIndex,
    /// The first byte of the access, from the start of the BAR.
    pub offset: u64,
    /// The area that holds the whole access, as the guest reaches it at this place.
    pub piece: Piece,
}
