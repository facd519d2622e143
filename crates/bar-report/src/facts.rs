// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The facts that a source states about a device, without those from VFIO.

use vfio_private::{BarIndex, BarKind, Msix};

use crate::report::note::{Note, Topic};
use crate::wording::Wording;

/// The facts that a source states about a device: its BARs and MSI-X. A [`Reader`](crate::Reader)
/// reads them, and [`DeviceFacts::bars`] converts them to the classifier's input.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// The device as its source names it.
    pub(crate) name: String,
    /// The file that errors name.
    pub(crate) source: String,
    /// The BARs, each number once.
    pub(crate) bars: Vec<BarFact>,
    pub(crate) msix: Option<Msix>,
    /// The place of that fact: the file, and the line or the offset.
    pub(crate) msix_place: String,
    /// Notes about the device as a whole.
    pub(crate) notes: Vec<String>,
    /// The note that there may be more BARs. A list of regions resolves it.
    pub(crate) unknown: Option<String>,
    pub(crate) wording: Wording,
}

impl DeviceFacts {
    /// The device as its source names it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The facts about a BAR, without those from VFIO.
#[derive(Clone, Debug)]
pub(crate) struct BarFact {
    pub(crate) index: BarIndex,
    pub(crate) kind: BarKind,
    /// The size. Configuration space alone does not contain it. 0 if the source names the BAR but
    /// the BAR cannot be used.
    pub(crate) size: Option<u64>,
    /// The address in the register, if there is one: a multiple of the size.
    pub(crate) register: Option<u64>,
    /// Whether the BAR also takes the next number.
    pub(crate) is_64bit: bool,
    /// Further properties in words, such as the width.
    pub(crate) details: String,
    /// The line of the text that describes the BAR.
    pub(crate) line: Option<usize>,
    /// Notes about the BAR.
    pub(crate) notes: Vec<String>,
}

impl BarFact {
    /// Creates a BAR that the source names but that cannot be used.
    pub(crate) fn unusable(index: BarIndex, why: String) -> Self {
        Self {
            index,
            kind: BarKind::Memory,
            size: Some(0),
            register: None,
            is_64bit: false,
            details: String::new(),
            line: None,
            notes: vec![why],
        }
    }

    /// Returns whether the source names the BAR but the BAR cannot be used.
    pub(crate) fn is_unusable(&self) -> bool {
        self.size == Some(0)
    }

    /// Returns the notes of a BAR that is not in the report.
    pub(crate) fn without_bar(&self) -> impl Iterator<Item = Note> {
        let note = |text: &String| format!("{}: {text}", self.index);
        self.notes
            .iter()
            .map(move |text| Note::new(Topic::Device, note(text)))
    }

    /// Combines the facts of configuration space with those of a line of `lspci`. Returns `None` if
    /// they disagree.
    pub(crate) fn with_text(&self, text: &Self) -> Option<Self> {
        let mut both = text.clone();
        both.register = self.register;
        both.notes.extend(self.notes.iter().cloned());
        if self.is_unusable() {
            return Some(both);
        }
        if text.details.is_empty() {
            both.details.clone_from(&self.details);
        }
        // Older versions of lspci do not mark a BAR of Enhanced Allocation.
        if text.details.is_empty() || self.size.is_some() {
            both.is_64bit = self.is_64bit;
        }
        both.size = text.size.or(self.size);
        let agrees = (self.kind, self.is_64bit) == (both.kind, both.is_64bit)
            && self.size.is_none_or(|size| both.size == Some(size));
        agrees.then_some(both)
    }

    /// Returns whether two lines state the same facts.
    pub(crate) fn states_same_as(&self, other: &Self) -> bool {
        let facts = |bar: &Self| (bar.index, bar.kind, bar.size, bar.is_64bit);
        facts(self) == facts(other)
    }
}
