// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The report: the pieces of each BAR, and the assumptions behind them.

pub(crate) mod classify;
mod drawing;
#[cfg(feature = "json")]
mod json;
pub(crate) mod note;
mod tdisp_notes;
mod text;

use vfio_private::{Bar, BarIndex, BarKind, Msix, PageSize, Piece};

use crate::memory_type::MemoryType;
use crate::report::note::Note;
use crate::sources::region_list::RegionSource;

/// The pieces of each BAR of a device, and the assumptions behind them.
/// [`DeviceBars::report`](crate::DeviceBars::report) creates it.
#[derive(Clone, Debug)]
pub struct BarReport {
    /// The name of the device in its source.
    pub name: String,
    /// The page size of the host.
    pub page: PageSize,
    /// The source of the list of mappable regions.
    pub regions: RegionSource,
    /// The MSI-X structures.
    pub msix: Option<Msix>,
    /// The BARs of known size in ascending order.
    pub bars: Vec<ClassifiedBar>,
    /// The I/O BARs of unknown size in ascending order. All of their bytes trap.
    pub unsized_io: Vec<BarIndex>,
    /// The assumptions of the report, and possible errors in it.
    pub notes: Vec<Note>,
}

/// The pieces of one BAR.
#[derive(Clone, Debug)]
pub struct ClassifiedBar {
    /// The BAR.
    pub bar: Bar,
    /// The type of a memory BAR, if its source states it.
    pub memory_type: Option<MemoryType>,
    /// Whether the Enhanced Allocation capability describes the BAR.
    pub is_enhanced: bool,
    /// Its pieces.
    pub pieces: Vec<Piece>,
}

impl BarReport {
    /// Returns the notes that apply to a BAR: the notes of the device, and the
    /// BAR's own.
    pub fn notes_of(&self, bar: &ClassifiedBar) -> impl Iterator<Item = &Note> {
        self.notes_on(bar.bar.index(), bar.bar.kind())
    }

    /// Returns the notes that apply to a BAR of known or unknown size.
    pub(crate) fn notes_on(&self, index: BarIndex, kind: BarKind) -> impl Iterator<Item = &Note> {
        let notes = self.notes.iter();
        notes.filter(move |note| note.concerns(index, kind))
    }
}
