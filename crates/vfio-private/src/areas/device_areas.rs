// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The areas of a device's BARs, at their places in the guest's memory.

use guest_ranges::AddrRange;

use super::bar_areas::BarAreas;
use super::error::{AreaAccessError, AreasError, PlaceError};
use super::mapped::{MappedArea, PlacedArea};
use super::{CAPACITY, FoundArea};
use crate::bar::BarIndex;
use crate::piece::{Access, Piece};
use crate::reason::Reason;

/// The memory BARs of a device with their areas, and where the guest has put them.
///
/// This is a value without a device: a change returns another value, and
/// [`AreaChange`](super::AreaChange) lists what differs between two. A VMM keeps the new value once it
/// has made the change, and drops it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAreas<const N: usize = CAPACITY> {
    bars: [Option<BarAreas<N>>; BARS],
    /// Also of a BAR while the device does not decode it.
    places: [Option<u64>; BARS],
    decodes: bool,
}

const BARS: usize = BarIndex::COUNT as usize;

impl<const N: usize> DeviceAreas<N> {
    /// A device with these memory BARs. They have no place, and memory decoding is off.
    ///
    /// # Errors
    ///
    /// [`AreasError::Twice`] for two BARs with one number, [`AreasError::Io`] for an I/O BAR.
    pub fn new(bars: impl IntoIterator<Item = BarAreas<N>>) -> Result<Self, AreasError> {
        let mut device = Self {
            bars: [None; BARS],
            places: [None; BARS],
            decodes: false,
        };
        for areas in bars {
            let bar = areas.bar().index();
            if !areas.is_memory() {
                return Err(AreasError::Io { bar });
            }
            let slot = device.bars.get_mut(usize::from(bar.get()));
            if slot.and_then(|slot| slot.replace(areas)).is_some() {
                return Err(AreasError::Twice { bar });
            }
        }
        Ok(device)
    }

    /// The same device with a BAR at another address, or at none.
    ///
    /// # Errors
    ///
    /// [`PlaceError`]. Overlaps are refused only while the device decodes memory.
    pub fn moved(&self, bar: BarIndex, to: Option<u64>) -> Result<Self, PlaceError> {
        self.all_moved([(bar, to)])
    }

    /// The same device with several BARs at other addresses at once, so that two can swap theirs.
    ///
    /// # Errors
    ///
    /// As for [`moved`](Self::moved).
    pub fn all_moved(
        &self,
        moves: impl IntoIterator<Item = (BarIndex, Option<u64>)>,
    ) -> Result<Self, PlaceError> {
        let mut device = *self;
        for (bar, to) in moves {
            let areas = self.areas(bar).ok_or(PlaceError::NoSuchBar { bar })?;
            check_place(areas, to)?;
            if let Some(place) = device.places.get_mut(usize::from(bar.get())) {
                *place = to;
            }
        }
        device.checked()
    }

    /// The same device with memory decoding on or off. While it is off, no BAR is mapped, whatever
    /// its address. It counts as off while the device sleeps or is reset: see
    /// [`ReachEvent`](crate::ReachEvent).
    ///
    /// # Errors
    ///
    /// [`PlaceError::Overlap`] if decoding is switched on while two BARs share addresses.
    pub fn with_decoding(&self, decodes: bool) -> Result<Self, PlaceError> {
        Self { decodes, ..*self }.checked()
    }

    /// The same device with a BAR carved again, for example by a report, at the same place.
    ///
    /// # Errors
    ///
    /// [`PlaceError`] if the device has no such BAR, or if the new size does not fit the place.
    pub fn with_areas(&self, areas: BarAreas<N>) -> Result<Self, PlaceError> {
        let bar = areas.bar().index();
        let mut device = *self;
        match device.bars.get_mut(usize::from(bar.get())) {
            Some(Some(old)) if areas.is_memory() => *old = areas,
            _ => return Err(PlaceError::NoSuchBar { bar }),
        }
        check_place(&areas, self.place(bar))?;
        device.checked()
    }

    /// Refuses two BARs at the same addresses.
    fn checked(self) -> Result<Self, PlaceError> {
        for (bar, range) in self.decoded() {
            let mut others = self.decoded().filter(|&(other, _)| bar < other);
            if let Some((other, other_range)) = others.find(|(_, other)| other.overlaps(range)) {
                return Err(PlaceError::Overlap {
                    bar,
                    range,
                    other,
                    other_range,
                });
            }
        }
        Ok(self)
    }

    /// The areas of a BAR; `None` if the device has no such memory BAR.
    pub fn areas(&self, bar: BarIndex) -> Option<&BarAreas<N>> {
        self.bars.get(usize::from(bar.get()))?.as_ref()
    }

    /// The address of a BAR, if the guest has given it one.
    pub fn place(&self, bar: BarIndex) -> Option<u64> {
        self.places.get(usize::from(bar.get())).copied().flatten()
    }

    /// Whether the device decodes memory.
    pub const fn decodes(&self) -> bool {
        self.decodes
    }

    /// What KVM is to map, by BAR and offset: private areas by dma-buf, shared ones by host address.
    pub fn mapped(&self) -> impl Iterator<Item = PlacedArea> {
        let placed = self.placed_bars();
        placed.flat_map(|(at, areas)| self.mapped_of(at, areas))
    }

    fn mapped_of(&self, at: u64, areas: &BarAreas<N>) -> impl Iterator<Item = PlacedArea> {
        let bar = areas.bar().index();
        let mapped = areas.mapped();
        let mapped = mapped.filter(move |&area| self.has_pages_alone(bar, at, area));
        mapped.filter_map(move |area| PlacedArea::new(bar, at, area))
    }

    /// Whether one of [`mapped`](Self::mapped) is the same mapping.
    pub(super) fn has_mapping(&self, area: PlacedArea) -> bool {
        let mut placed = self.placed_bars();
        let placed = placed.find(|(_, areas)| areas.bar().index() == area.bar());
        // Most changes move a BAR, and all of its areas with it.
        let placed = placed.filter(|&(at, _)| area.starts_with_bar_at(at));
        placed.is_some_and(|(at, areas)| {
            let mut mapped = self.mapped_of(at, areas);
            mapped.any(|other| other.is_same_mapping(area))
        })
    }

    /// What an IOMMU is to map for other devices, by host address: the areas of
    /// [`mapped`](Self::mapped) that are not private.
    pub fn dma(&self) -> impl Iterator<Item = PlacedArea> {
        self.mapped()
            .filter(|placed| placed.area().piece().dma_mappable())
    }

    /// The area that holds all `len` bytes from the guest-physical address `gpa` on.
    ///
    /// # Errors
    ///
    /// [`AreaAccessError`] if there is no BAR, or if the access is not in one area.
    pub fn find(&self, gpa: u64, len: u64) -> Result<FoundArea, AreaAccessError> {
        let (at, areas) = self.bar_at(gpa, len)?;
        let (bar, offset) = (areas.bar().index(), gpa - at);
        let piece = self.as_placed(bar, at, areas, areas.find(offset, len)?);
        Ok(FoundArea { bar, offset, piece })
    }

    /// The mapping by which other devices reach all `len` bytes from the guest-physical address
    /// `gpa` on. A range that is in two mappings has no host address of its own.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find), and [`AreaAccessError::NotForDma`].
    pub fn find_dma(&self, gpa: u64, len: u64) -> Result<PlacedArea, AreaAccessError> {
        let (at, areas) = self.bar_at(gpa, len)?;
        let bar = areas.bar().index();
        let area = areas.find_dma(gpa - at, len)?;
        let placed = PlacedArea::new(bar, at, area);
        let placed = placed.filter(|_| self.has_pages_alone(bar, at, area));
        placed.ok_or(AreaAccessError::NotForDma {
            bar,
            range: area.piece().range(),
            access: Access::Trap,
        })
    }

    /// The BAR that holds the first of the bytes, and where it starts.
    fn bar_at(&self, gpa: u64, len: u64) -> Result<(u64, &BarAreas<N>), AreaAccessError> {
        let range = AddrRange::new(gpa, len.into());
        let range = range.ok_or(AreaAccessError::NotARange { at: gpa, len })?;
        if !self.decodes {
            return Err(AreaAccessError::DecodeOff { range });
        }
        let holds = |&(at, areas): &(u64, &BarAreas<N>)| {
            let offset = gpa.checked_sub(at);
            offset.is_some_and(|offset| offset < areas.guest_size())
        };
        let found = self.placed_bars().find(holds);
        found.ok_or(AreaAccessError::NoBar { range })
    }

    /// A piece as the guest reaches it at this place.
    fn as_placed(&self, bar: BarIndex, at: u64, areas: &BarAreas<N>, piece: Piece) -> Piece {
        let area = MappedArea::of(piece, areas.page_size());
        match area.is_none_or(|area| self.has_pages_alone(bar, at, area)) {
            true => piece,
            false => Piece::new(piece.range(), Access::Trap, Reason::SubPageBar.into()),
        }
    }

    /// Whether an area can be mapped where its BAR is. An expanded BAR traps if it does not start on
    /// a host page, or if the page has another BAR as well.
    fn has_pages_alone(&self, bar: BarIndex, at: u64, area: MappedArea) -> bool {
        if !area.is_expanded() {
            return true;
        }
        let page = area.size();
        let pages = AddrRange::new(at, page.into()).filter(|_| at % page == 0);
        let mut others = self.decoded().filter(|&(other, _)| other != bar);
        pages.is_some_and(|pages| !others.any(|(_, range)| range.overlaps(pages)))
    }

    /// The BARs that the device decodes, with their addresses.
    fn decoded(&self) -> impl Iterator<Item = (BarIndex, AddrRange)> {
        self.placed_bars().filter_map(|(at, areas)| {
            let range = AddrRange::new(at, areas.guest_size().into())?;
            Some((areas.bar().index(), range))
        })
    }

    fn placed_bars(&self) -> impl Iterator<Item = (u64, &BarAreas<N>)> {
        let bars = self.bars.iter().zip(self.places);
        let placed = bars.filter_map(|(areas, place)| place.zip(areas.as_ref()));
        placed.filter(|_| self.decodes)
    }
}

/// Checks what the register of a BAR determines by itself.
fn check_place<const N: usize>(areas: &BarAreas<N>, to: Option<u64>) -> Result<(), PlaceError> {
    let (bar, size) = (areas.bar().index(), areas.guest_size());
    match to {
        Some(0) => Err(PlaceError::AtZero { bar }),
        Some(at) if at % size != 0 => Err(PlaceError::Misaligned { bar, at, size }),
        _ => Ok(()),
    }
}
