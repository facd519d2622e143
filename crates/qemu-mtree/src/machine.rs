// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine that a dump describes.

use std::fmt;
use std::sync::Arc;

use memory_model::{FlatView, MemoryModel, SpaceId};

use crate::region_type::RegionType;

/// The handle of each region of the model: what QEMU prints about the region
/// and the model does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionInfo {
    /// The type that the dump prints.
    pub kind: RegionType,
    /// The priority. The model keeps it for placed regions only.
    pub priority: i32,
}

/// A machine's memory, rebuilt from a dump.
#[derive(Debug)]
#[non_exhaustive]
pub struct Machine {
    /// All regions, and one address space for each view that is not empty.
    pub model: MemoryModel<RegionInfo>,
    /// The views that `info mtree -f` lists, in the order of their first
    /// address space.
    pub views: Vec<View>,
    /// Whether KVM runs the machine.
    pub kvm: bool,
    /// Overlapping siblings of equal priority whose order is guessed, because the
    /// dump does not state it.
    pub overlaps: Vec<Overlap>,
    /// Set if the dump may have been cut off, so that regions may be missing.
    pub cut_off: Option<CutOff>,
}

impl Machine {
    /// Returns the flat view of the first address space with this name. Returns
    /// `None` if there is no such address space, or if its view is empty.
    ///
    /// `memory` is the guest's memory. `I/O` holds its I/O ports.
    pub fn flat_view(&self, address_space: &str) -> Option<Arc<FlatView<RegionInfo>>> {
        let mut views = self.views.iter();
        let view = views.find(|view| view.spaces.iter().any(|space| space.name == address_space));
        Some(self.model.view(view?.root.as_ref()?.space))
    }
}

/// The address spaces that share a flat view.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct View {
    /// The address spaces, in the order of the dump.
    pub spaces: Vec<AddressSpace>,
    /// The root that the view is rendered from; `None` if the view is empty.
    pub root: Option<ViewRoot>,
}

/// The root that a view is rendered from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewRoot {
    /// The name of the region.
    pub name: String,
    /// The model's address space that renders it.
    pub space: SpaceId,
}

/// One address space of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressSpace {
    /// Its name.
    pub name: String,
    /// The name of its own root.
    pub root: String,
    /// The name of that root's target, if the root is an alias.
    pub alias: Option<String>,
}

/// Two overlapping siblings of equal priority. QEMU shows the one that was added
/// last, which the dump does not state. The later start is taken to win.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlap {
    /// The line of the region that is taken to win, counted from 1.
    pub line: usize,
    /// Its name, which is shortened if it is long.
    pub shown: String,
    /// The name of the other region.
    pub hidden: String,
    /// The line of the other region.
    pub hidden_line: usize,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            shown,
            hidden,
            hidden_line,
        } = self;
        write!(
            f,
            "{line}: '{shown}' is taken to hide part of '{hidden}' (line {hidden_line}): the dump \
             does not state which of the two QEMU shows"
        )
    }
}

/// The end of a dump that lacks the empty line or the prompt that QEMU prints
/// after the last tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutOff {
    /// The name of the file, as the caller gave it.
    pub file: String,
    /// The last line, counted from 1.
    pub line: usize,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: QEMU prints an empty line behind the last tree: the dump may have been cut \
             off here, and regions may be missing",
            self.file, self.line
        )
    }
}
