// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The facts that a source states about a device, without those from VFIO.

use vfio_private::{BarIndex, BarKind, Msix};

use crate::memory_type::MemoryType;
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
    /// The type of a memory BAR, if the source states it.
    pub(crate) memory_type: Option<MemoryType>,
    /// Whether the Enhanced Allocation capability describes the BAR.
    pub(crate) is_enhanced: bool,
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
            memory_type: None,
            is_enhanced: false,
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
        // lspci prints the type in the register, which a BAR of Enhanced Allocation does not have.
        // Older versions do not mark such a BAR.
        if text.memory_type.is_none() || self.is_enhanced {
            both.memory_type = self.memory_type;
            both.is_64bit = self.is_64bit;
        }
        both.is_enhanced |= self.is_enhanced;
        both.size = text.size.or(self.size);
        self.allows(&both).then_some(both)
    }

    /// Returns whether facts from elsewhere agree with those of configuration space, which has the
    /// size only of a BAR of Enhanced Allocation. It does not tell `low-1M` from `32-bit`.
    pub(crate) fn allows(&self, other: &Self) -> bool {
        let prefetchable = |bar: &Self| bar.memory_type.map(|known| known.prefetchable);
        (self.kind, self.is_64bit) == (other.kind, other.is_64bit)
            && self.size.is_none_or(|size| other.size == Some(size))
            && agree(prefetchable(self), prefetchable(other))
    }

    /// Returns whether two lines state the same facts. A line may lack the type.
    pub(crate) fn states_same_as(&self, other: &Self) -> bool {
        let facts = |bar: &Self| (bar.index, bar.kind, bar.size, bar.is_64bit);
        facts(self) == facts(other) && agree(self.memory_type, other.memory_type)
    }
}

/// Returns whether two statements agree, or one of them is missing.
fn agree<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.is_none() || other.is_none() || one == other
}
