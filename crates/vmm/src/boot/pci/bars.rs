// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps the BARs of a function where the guest sees them.

use memory_model::{AddrRange, CommitError, Region, RegionId, TreeError};
use vfio_private::emulate::GuestConfig;
use vfio_private::{Bar, BarKind};

use crate::boot::bus::{GuestSpaces, Handle};
use crate::boot::pci::windows::PciWindows;

/// The regions of a BAR.
#[derive(Debug)]
pub struct BarRegions {
    /// The BAR.
    pub bar: Bar,
    /// A container of the BAR's size.
    pub container: Region<Handle>,
    /// What is in it, each piece at an offset.
    pub pieces: Vec<(u64, Region<Handle>)>,
}

/// Why the BARs did not move. They are where they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarError {
    /// A region does not fit the tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// KVM or another listener refused the change, or it would move private MMIO that
    /// the guest has accepted.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The BARs of one function in the guest's address spaces.
///
/// A BAR lies in the tree while it shows, and only then. [`PciWindows`] has where a
/// BAR can show. Where two BARs of a function overlap, that of the lower number shows;
/// of two functions, that of the lower number or, if they are equal, that which was
/// shown or moved last. Everything that is not a BAR is on top of BARs.
#[derive(Debug)]
pub struct GuestBars {
    spaces: GuestSpaces,
    windows: PciWindows,
    bars: Vec<(Bar, RegionId)>,
}

impl GuestBars {
    /// Adds the regions of BARs, none of which shows yet.
    ///
    /// # Errors
    /// [`BarError::Tree`] for a region of invalid size.
    pub fn new(
        spaces: GuestSpaces,
        windows: PciWindows,
        regions: Vec<BarRegions>,
    ) -> Result<Self, BarError> {
        let mut bars = Vec::new();
        let mut model = spaces.model();
        let mut t = model.transaction();
        for regions in regions {
            let container = t.add(regions.container)?;
            for (offset, piece) in regions.pieces {
                let piece = t.add(piece)?;
                t.place(piece, container, offset, 0)?;
            }
            bars.push((regions.bar, container));
        }
        t.commit()?;
        drop(model);
        Ok(Self {
            spaces,
            windows,
            bars,
        })
    }

    /// Shows every BAR where `guest` has it, and hides the others: one transaction, or
    /// none if all are there already.
    ///
    /// # Errors
    /// [`BarError`]. The next call tries again.
    pub fn show(&self, guest: &GuestConfig) -> Result<(), BarError> {
        self.put(|bar, _| {
            let start = guest.shown(bar.index())?;
            let range = AddrRange::new(start, bar.size().into())?;
            self.windows.cover(bar.kind(), range).then_some(start)
        })
    }

    /// Hides all memory BARs, in one transaction. I/O BARs stay.
    ///
    /// # Errors
    /// [`BarError`].
    pub fn hide_memory(&self) -> Result<(), BarError> {
        self.put(|bar, now| now.filter(|_| bar.kind() == BarKind::Io))
    }

    /// The guest-physical addresses at which memory BARs show.
    pub fn shown_memory(&self) -> Vec<AddrRange> {
        let model = self.spaces.model();
        let memory = self.bars.iter();
        let memory = memory.filter(|(bar, _)| bar.kind() == BarKind::Memory);
        let range = |(bar, region): &(Bar, RegionId)| {
            let place = model.tree().place(*region).ok()??;
            AddrRange::new(place.address, bar.size().into())
        };
        memory.filter_map(range).collect()
    }

    /// Puts each BAR where `wanted` has it, which gets the address at which it is now.
    fn put(&self, wanted: impl Fn(Bar, Option<u64>) -> Option<u64>) -> Result<(), BarError> {
        let mut model = self.spaces.model();
        let mut moves = Vec::new();
        for (bar, region) in &self.bars {
            let now = model.tree().place(*region)?.map(|place| place.address);
            let wanted = wanted(*bar, now);
            if wanted != now {
                moves.push((*bar, *region, now, wanted));
            }
        }
        if moves.is_empty() {
            return Ok(());
        }
        let mut t = model.transaction();
        for (bar, region, now, wanted) in moves {
            match (now, wanted) {
                (_, None) => t.unplace(region)?,
                (Some(_), Some(to)) => t.move_to(region, to)?,
                (None, Some(to)) => t.place(region, self.root(bar.kind()), to, priority(bar))?,
            }
        }
        Ok(t.commit()?)
    }

    fn root(&self, kind: BarKind) -> RegionId {
        match kind {
            BarKind::Memory => self.spaces.memory_root,
            BarKind::Io => self.spaces.port_root,
        }
    }
}

/// Below all that is not a BAR, and lower for higher numbers.
fn priority(bar: Bar) -> i32 {
    -1 - i32::from(bar.index().get())
}
