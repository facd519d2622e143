// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What to unmap and what to map for a change.

use core::fmt;

use super::CAPACITY;
use super::device_areas::DeviceAreas;
use super::mapped::PlacedArea;

/// What differs between two states of a device's areas: lists for KVM, and lists for the IOMMU.
///
/// Each unmapped area is exactly an area that was mapped, with the same addresses, and never a part
/// of one or more than one. Areas that both states have are in no list, so that the guest and devices
/// keep them. Carry out all unmaps before the first map: BARs that swap their addresses overlap
/// otherwise. The lists are computed when they are read; nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaChange<'a, const N: usize = CAPACITY> {
    old: &'a DeviceAreas<N>,
    new: &'a DeviceAreas<N>,
}

impl<'a, const N: usize> AreaChange<'a, N> {
    /// The change from `old` to `new`.
    pub const fn between(old: &'a DeviceAreas<N>, new: &'a DeviceAreas<N>) -> Self {
        Self { old, new }
    }

    /// The change that undoes this one.
    #[must_use]
    pub const fn undo(self) -> Self {
        Self {
            old: self.new,
            new: self.old,
        }
    }

    /// The areas that the guest loses: memslots to delete.
    pub fn unmaps(self) -> impl Iterator<Item = PlacedArea> {
        let stays = move |&area: &PlacedArea| self.new.has_mapping(area);
        self.old.mapped().filter(move |area| !stays(area))
    }

    /// The areas that the guest gains: memslots to create.
    pub fn maps(self) -> impl Iterator<Item = PlacedArea> {
        self.undo().unmaps()
    }

    /// The areas that other devices lose: DMA mappings to remove.
    pub fn dma_unmaps(self) -> impl Iterator<Item = PlacedArea> {
        // Areas that are the same have the same access, too.
        self.unmaps()
            .filter(|placed| placed.area().piece().dma_mappable())
    }

    /// The areas that other devices gain: DMA mappings to make.
    pub fn dma_maps(self) -> impl Iterator<Item = PlacedArea> {
        self.undo().dma_unmaps()
    }

    /// Whether nothing is mapped or unmapped.
    pub fn is_empty(self) -> bool {
        // A DMA mapping is one of the guest's mappings.
        self.unmaps().chain(self.maps()).next().is_none()
    }
}

/// One line for each memslot, for example
/// `unmap BAR 0 + 0x0-0x1fff shared at 0xe0000000-0xe0001fff`.
impl<const N: usize> fmt::Display for AreaChange<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unmaps = self.unmaps().map(|area| ("unmap", area));
        let maps = self.maps().map(|area| ("map", area));
        for (n, (what, area)) in unmaps.chain(maps).enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{what} {area}")?;
        }
        Ok(())
    }
}
