// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The areas of one BAR.

use guest_ranges::{AddrRange, PageSize};

use super::error::{AreaAccessError, AreasError};
use super::{CAPACITY, MappedArea};
use crate::bar::{Bar, BarKind};
use crate::bar_input::BarInput;
use crate::classify::Pieces;
use crate::mappable::Room;
use crate::piece::{Access, Piece};
use crate::policy::Policy;
use crate::reason::{Reason, Reasons};
use crate::relocate::Relocation;

/// The areas of a BAR: [`classify`](crate::classify)'s pieces in an array, with lookups.
///
/// There is room for `N` areas. The areas tile the BAR as the guest sees it.
///
/// ```
/// use vfio_private::areas::{AreaAccessError, BarAreas};
/// use vfio_private::{Access, Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region};
///
/// let index = BarIndex::new(0)?;
/// let bar = Bar::new(index, BarKind::Memory, 0x4000)?;
/// let region = Region::mappable();
/// let msix = Msix::with_vectors(33, (index, 0x2000), (index, 0x2800))?;
/// let input = BarInput::new(bar, &region).with_msix(Some(msix));
/// let areas = BarAreas::carve(&input, PageSize::Size4K, Policy::new())?;
///
/// let mapped: Vec<_> = areas.mapped().map(|area| (area.offset(), area.size())).collect();
/// assert_eq!(mapped, [(0, 0x2000), (0x3000, 0x1000)]);
/// assert_eq!(areas.find(0x2004, 4)?.access(), Access::Trap);
/// let error = areas.find(0x1ffe, 4).unwrap_err();
/// assert_eq!(error.to_string(), "BAR 0: 0x1ffe-0x2001 leaves the area 0x0-0x1fff");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarAreas<const N: usize = CAPACITY> {
    /// The BAR as the device has it.
    bar: Bar,
    /// The size that the guest sees: more if the BAR was enlarged.
    guest_size: u64,
    page: PageSize,
    /// What is behind the first `count` is [`NONE`].
    pieces: [Piece; N],
    count: usize,
}

/// Fills the array behind the last area.
const NONE: Piece = Piece::new(AddrRange::ALL, Access::Blocked, Reasons::NONE);

impl BarAreas {
    /// Carves a BAR into areas, with room for [`CAPACITY`].
    ///
    /// The areas are the pieces that [`classify`](crate::classify) returns. Nothing is allocated,
    /// unless there is a report or the region has more than 16 sparse-mmap areas.
    ///
    /// # Errors
    ///
    /// As for [`classify`](crate::classify); [`AreasError::TooMany`] if there is no room for all
    /// areas.
    pub fn carve(input: &BarInput<'_>, page: PageSize, policy: Policy) -> Result<Self, AreasError> {
        Self::carve_bounded(input, page, policy)
    }
}

impl<const N: usize> BarAreas<N> {
    /// As [`carve`](BarAreas::carve), with room for `N` areas. A BAR with `a` sparse-mmap areas and
    /// `r` reported ranges has at most `5 + 2 * a + 6 * r`.
    ///
    /// # Errors
    ///
    /// As for [`carve`](BarAreas::carve).
    pub fn carve_bounded(
        input: &BarInput<'_>,
        page: PageSize,
        policy: Policy,
    ) -> Result<Self, AreasError> {
        let mut room = Room::new();
        let mut areas = Self {
            bar: input.bar,
            guest_size: input.bar.size(),
            page,
            pieces: [NONE; N],
            count: 0,
        };
        let mut needed = 0;
        for piece in Pieces::new(input, page, policy, &mut room)? {
            if let Some(slot) = areas.pieces.get_mut(needed) {
                *slot = piece;
            }
            needed += 1;
        }
        areas.with_count(needed)
    }

    /// The same areas, and one that traps behind them: the bytes that only the guest's BAR has
    /// because MSI-X was relocated there.
    ///
    /// # Errors
    ///
    /// [`AreasError::NotEnlarged`] for a relocation of another BAR, [`AreasError::TooMany`] if there
    /// is no room.
    pub fn enlarged(mut self, relocation: &Relocation) -> Result<Self, AreasError> {
        let guest = relocation.bar;
        let added = AddrRange::from_bounds(self.guest_size, guest.size() - 1);
        let added = added.filter(|_| guest.index() == self.bar.index());
        let added = added.ok_or(AreasError::NotEnlarged {
            bar: self.bar.index(),
            relocated: guest.index(),
            size: guest.size(),
        })?;
        if let Some(slot) = self.pieces.get_mut(self.count) {
            *slot = Piece::new(added, Access::Trap, Reason::EmulatedMsix.into());
        }
        self.guest_size = guest.size();
        let needed = self.count + 1;
        self.with_count(needed)
    }

    fn with_count(self, needed: usize) -> Result<Self, AreasError> {
        if needed > N {
            return Err(AreasError::TooMany {
                bar: self.bar.index(),
                needed,
                capacity: N,
            });
        }
        Ok(Self {
            count: needed,
            ..self
        })
    }

    /// The BAR as the device has it.
    pub const fn bar(&self) -> Bar {
        self.bar
    }

    /// The size of the BAR as the guest sees it, in bytes: a power of two, as is the device's.
    pub const fn guest_size(&self) -> u64 {
        self.guest_size
    }

    /// The host's page size.
    pub const fn page_size(&self) -> PageSize {
        self.page
    }

    /// All areas, by offset. They tile the BAR as the guest sees it.
    pub fn all(&self) -> &[Piece] {
        self.pieces.get(..self.count).unwrap_or_default()
    }

    /// What the VMM maps into the guest: whole host pages, by offset.
    pub fn mapped(&self) -> impl Iterator<Item = MappedArea> + Clone {
        let pieces = self.all().iter();
        pieces.filter_map(|&piece| MappedArea::of(piece, self.page))
    }

    /// What other devices can reach by its host address: the mapped areas that are not private.
    pub fn dma(&self) -> impl Iterator<Item = MappedArea> + Clone {
        self.mapped().filter(|area| area.piece().dma_mappable())
    }

    /// The bytes whose accesses exit to the VMM, by offset.
    pub fn trapped(&self) -> impl Iterator<Item = Piece> + Clone {
        let pieces = self.all().iter().copied();
        pieces.filter(|piece| piece.access() == Access::Trap)
    }

    /// The area that holds all `len` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`AreaAccessError`] if not all of them are in one area: a part of an access is never taken
    /// for the whole.
    pub fn find(&self, offset: u64, len: u64) -> Result<Piece, AreaAccessError> {
        let range = AddrRange::new(offset, len.into());
        let range = range.ok_or(AreaAccessError::NotARange { at: offset, len })?;
        let bar = self.bar.index();
        if range.last() >= self.guest_size {
            return Err(AreaAccessError::LeavesBar {
                bar,
                range,
                bar_size: self.guest_size,
            });
        }
        let pieces = self.all();
        let below = pieces.partition_point(|piece| piece.range().last() < offset);
        match pieces.get(below) {
            Some(piece) if piece.range().covers(range) => Ok(*piece),
            Some(piece) => Err(AreaAccessError::LeavesArea {
                bar,
                range,
                area: piece.range(),
            }),
            // The areas tile the BAR.
            None => Err(AreaAccessError::LeavesBar {
                bar,
                range,
                bar_size: self.guest_size,
            }),
        }
    }

    /// The area that other devices can reach all `len` bytes from `offset` on in: one mapping, with
    /// one host address.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find), and [`AreaAccessError::NotForDma`].
    pub fn find_dma(&self, offset: u64, len: u64) -> Result<MappedArea, AreaAccessError> {
        let piece = self.find(offset, len)?;
        let area = MappedArea::of(piece, self.page).filter(|_| piece.dma_mappable());
        area.ok_or(AreaAccessError::NotForDma {
            bar: self.bar.index(),
            range: piece.range(),
            access: piece.access(),
        })
    }

    /// Whether the BAR is in memory.
    pub(super) fn is_memory(&self) -> bool {
        self.bar.kind() == BarKind::Memory
    }
}
