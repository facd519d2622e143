// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine as a dump shows it.

use std::fmt;
use std::sync::Arc;

use memory_model::{FlatView, MemoryModel, SpaceId};

use crate::region_type::RegionType;

/// What each region of the model carries: what QEMU prints of it and the model
/// does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionInfo {
    /// The type as the dump has it.
    pub kind: RegionType,
    /// The priority, which the model keeps for placed regions only.
    pub priority: i32,
}

/// A machine's memory, put together again from a dump of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Machine {
    /// All its regions, and one address space for each view that shows any.
    pub model: MemoryModel<RegionInfo>,
    /// What `info mtree -f` lists, by the first address space of each.
    pub views: Vec<View>,
    /// Whether KVM runs the machine.
    pub kvm: bool,
    /// Where the dump may have been cut off, so that regions are missing.
    pub cut_off: Option<CutOff>,
}

impl Machine {
    /// The flat view of the first address space of this name; `None` if there
    /// is no such space, or nothing in it can show.
    ///
    /// `memory` is what the guest sees, and `I/O` are its ports.
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
    /// What the view is rendered from; `None` if nothing can show.
    pub root: Option<ViewRoot>,
}

/// What a view is rendered from.
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
    /// If that root is an alias: the name of what it shows.
    pub alias: Option<String>,
}

/// Where a dump ends without the empty line or the prompt that QEMU prints after
/// the last tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutOff {
    /// The file as it was named.
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
