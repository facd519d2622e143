// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A change of areas as a change of DMA mappings (feature `vfio-dma`).

use alloc::vec::Vec;

use guest_ranges::AddrRange;
use thiserror::Error;
use vfio_dma::{DmaAccess, DmaChange, DmaMemory, DmaRange};

use super::change::AreaChange;
use super::mapped::PlacedArea;

/// Why an area cannot be mapped for DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AreaDmaError {
    /// The caller has no memory for the area.
    #[error("{area}: there is no memory for it")]
    NoMemory {
        /// The area.
        area: PlacedArea,
    },
    /// The memory has another size than the area.
    #[error("{area}: its memory has {size:#x} bytes")]
    WrongSize {
        /// The area.
        area: PlacedArea,
        /// The size of the memory in bytes.
        size: u64,
    },
}

/// What other devices lose and gain by a change of areas: the lists of a [`DmaChange`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DmaLists {
    removed: Vec<AddrRange>,
    added: Vec<DmaRange>,
}

impl DmaLists {
    /// The change, for [`plan_dma_change`](vfio_dma::plan_dma_change).
    pub fn change(&self) -> DmaChange<'_> {
        DmaChange {
            removed: &self.removed,
            added: &self.added,
        }
    }
}

impl<const N: usize> AreaChange<'_, N> {
    /// The change of DMA mappings. `memory` returns the memory of an area: the host memory of its mapping,
    /// or a slice of a dma-buf for an IOMMU that maps files. It has exactly the
    /// [pages](super::MappedArea::pages) of the area, also where the area is in another place now.
    ///
    /// Devices may load and store. The IOVAs are the guest-physical addresses.
    ///
    /// ```
    /// use guest_ranges::HostMemory;
    /// use vfio_dma::{DmaLimits, DmaTable, Gaps, plan_dma_change};
    /// use vfio_private::areas::{AreaChange, BarAreas, DeviceAreas};
    /// use vfio_private::{AddrRange, Bar, BarIndex, BarInput, BarKind, PageSize, Policy, Region};
    ///
    /// let index = BarIndex::new(0)?;
    /// let bar = Bar::new(index, BarKind::Memory, 0x4000)?;
    /// let region = Region::mappable();
    /// let areas = BarAreas::carve(&BarInput::new(bar, &region), PageSize::Size4K, Policy::new())?;
    /// let none = DeviceAreas::new([areas])?;
    /// let device = none.moved(index, Some(0xe000_0000))?.with_decoding(true)?;
    ///
    /// // In place of the VMM's mapping of the BAR.
    /// let mapping = HostMemory::placeholder(bar.size()).unwrap();
    /// let change = AreaChange::between(&none, &device);
    /// let lists = change.dma_lists(|placed| {
    ///     let area = placed.area();
    ///     mapping.slice(area.offset(), area.size())
    /// })?;
    /// let limits = DmaLimits::new(0x1000, [AddrRange::ALL], None)?;
    /// let plan = plan_dma_change(&DmaTable::new(), &lists.change(), &limits, Gaps::Refuse)?;
    /// assert_eq!(plan.ops.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AreaDmaError`] if `memory` returns `None`, or memory of another size.
    pub fn dma_lists<M: Into<DmaMemory>>(
        self,
        mut memory: impl FnMut(PlacedArea) -> Option<M>,
    ) -> Result<DmaLists, AreaDmaError> {
        let removed = self.dma_unmaps().map(PlacedArea::gpa).collect();
        let added = self.dma_maps().map(|area| {
            let memory = memory(area).ok_or(AreaDmaError::NoMemory { area })?;
            range(area, memory.into())
        });
        let added = added.collect::<Result<_, _>>()?;
        Ok(DmaLists { removed, added })
    }
}

fn range(area: PlacedArea, memory: DmaMemory) -> Result<DmaRange, AreaDmaError> {
    let size = memory.size();
    if size != area.area().size() {
        return Err(AreaDmaError::WrongSize { area, size });
    }
    let range = DmaRange::new(area.gpa().start(), memory, DmaAccess::ReadWrite);
    Ok(range.expect("the addresses of an area do not wrap, and the memory has as many bytes"))
}
