// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The report: each BAR in pieces, and what that depends on.

pub(crate) mod classify;
mod drawing;
#[cfg(feature = "json")]
mod json;
pub(crate) mod note;
mod tdisp_notes;
mod text;

use vfio_private::{Bar, Msix, PageSize, Piece};

use crate::report::note::Note;
use crate::sources::region_list::RegionSource;

/// Each BAR of a device in pieces, and what that depends on.
/// [`DeviceBars::report`](crate::DeviceBars::report) makes it.
#[derive(Clone, Debug)]
pub struct BarReport {
    /// The device as its source names it.
    pub name: String,
    /// The page size of the host.
    pub page: PageSize,
    /// Who said what VFIO lets userspace map.
    pub regions: RegionSource,
    /// The MSI-X structures.
    pub msix: Option<Msix>,
    /// The BARs in ascending order.
    pub bars: Vec<ClassifiedBar>,
    /// What the report depends on, and what may be wrong with it.
    pub notes: Vec<Note>,
}

/// One BAR in pieces.
#[derive(Clone, Debug)]
pub struct ClassifiedBar {
    /// The BAR.
    pub bar: Bar,
    /// What else its source says: width, prefetchable.
    pub details: String,
    /// Its pieces.
    pub pieces: Vec<Piece>,
}

impl BarReport {
    /// The notes that apply to a BAR: those of the device, and its own.
    pub fn notes_of(&self, bar: &ClassifiedBar) -> impl Iterator<Item = &Note> {
        let bar = bar.bar;
        self.notes.iter().filter(move |note| note.concerns(bar))
    }
}
