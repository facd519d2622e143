// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Converts flat views of the crate `memory-model` to ranges.

use memory_model::{self as model, Diff, FlatRange, FlatView, GuestAccess};

use crate::range::{DeviceFile, SlotAccess, SlotBacking, SlotRange};

/// The ranges of `view` that the guest reaches directly: all that are not trapped.
pub fn slot_ranges<H>(view: &FlatView<H>) -> Vec<SlotRange> {
    view.ranges().filter_map(slot_range).collect()
}

/// The removed and added ranges of a view change. It is reused for later changes, so
/// that a usual change allocates no lists.
#[derive(Debug, Default)]
pub(crate) struct ChangedRanges {
    pub(crate) removed: Vec<SlotRange>,
    pub(crate) added: Vec<SlotRange>,
}

/// A change of more ranges is unusual.
const MANY: usize = 64;

impl ChangedRanges {
    /// Reads the ranges of a change.
    pub(crate) fn set<H>(&mut self, diff: &Diff<H>) {
        self.clear();
        let (were, are) = (
            diff.changed.iter().map(|c| &c.0),
            diff.changed.iter().map(|c| &c.1),
        );
        let removed = diff.removed.iter().chain(were);
        self.removed.extend(removed.filter_map(slot_range));
        let added = diff.added.iter().chain(are);
        self.added.extend(added.filter_map(slot_range));
    }

    /// Drops the ranges and the owners of their memory.
    pub(crate) fn clear(&mut self) {
        for ranges in [&mut self.removed, &mut self.added] {
            ranges.clear();
            ranges.shrink_to(MANY);
        }
    }
}

fn slot_range<H>(run: &FlatRange<H>) -> Option<SlotRange> {
    let access = match run.access() {
        GuestAccess::ReadWrite => SlotAccess::ReadWrite,
        GuestAccess::ReadOnly | GuestAccess::ReadTrapWrite => SlotAccess::ReadOnly,
        GuestAccess::Trap => return None,
    };
    let backing = backing(run.backing())?;
    // KVM logs only memory at a host address.
    let plain = matches!(backing, SlotBacking::Host(_));
    // A run is as large as its memory.
    let range = SlotRange::new(run.range().start(), access, backing).ok()?;
    Some(range.with_log_dirty(plain && !run.attributes().logged.is_empty()))
}

fn backing(backing: model::Backing) -> Option<SlotBacking> {
    Some(match backing {
        model::Backing::Memory(memory) => match memory.guest_memfd() {
            None => SlotBacking::Host(memory.host().clone()),
            // The host address is where the shared pages are, or a mapping of
            // them. KVM accepts both.
            Some((slice, _)) => SlotBacking::GuestMemfd {
                file: slice.clone(),
                host: Some(memory.host().clone()),
            },
        },
        model::Backing::DeviceRam(mapping) => SlotBacking::Host(mapping),
        model::Backing::PrivateMmio(registers) => {
            SlotBacking::FdOffset(DeviceFile::new(registers.file().clone()))
        }
        model::Backing::Nothing => return None,
    })
}
