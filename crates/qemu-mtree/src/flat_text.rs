// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats flat views as `info mtree -f` prints them.

use std::fmt::{self, Write};

use memory_model::{FlatRange, MemoryModel};

use crate::machine::{Machine, RegionInfo, View};

impl Machine {
    /// Formats all flat views as `info mtree -f` prints them.
    ///
    /// The views are in the order of their first address space in the dump.
    /// QEMU prints them in the order of a hash table of pointers.
    pub fn flat_text(&self) -> String {
        text(self)
    }
}

/// Formats all views.
///
/// QEMU prints views in the order of a hash table of pointers, and the address
/// spaces of a view by age. A dump contains neither order. This function sorts
/// views by their first address space in the dump. Within a view, `memory` is
/// first and `I/O` second, because they are the oldest in every machine.
fn text(machine: &Machine) -> String {
    let mut text = String::new();
    for (number, view) in machine.views.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write_view(&mut text, number, view, machine);
    }
    text
}

fn write_view(out: &mut String, number: usize, view: &View, machine: &Machine) -> fmt::Result {
    writeln!(out, "FlatView #{number}")?;
    let mut spaces: Vec<_> = view.spaces.iter().collect();
    spaces.sort_by_key(|space| match &*space.name {
        "memory" => 0,
        "I/O" => 1,
        _ => 2,
    });
    for space in spaces {
        write!(out, " AS \"{}\", root: {}", space.name, space.root)?;
        if let Some(alias) = &space.alias {
            write!(out, ", alias {alias}")?;
        }
        writeln!(out)?;
    }
    let root = view.root.as_ref().map_or("(none)", |root| &root.name);
    writeln!(out, " Root memory region: {root}")?;
    // KVM's slots hold guest memory, which is what this address space shows.
    let kvm = machine.kvm && view.spaces.iter().any(|space| space.name == "memory");
    let before = out.len();
    write_ranges(out, view, &machine.model, kvm)?;
    if out.len() == before {
        writeln!(out, "  No rendered FlatView")?;
    }
    writeln!(out)
}

fn write_ranges(
    out: &mut String,
    view: &View,
    model: &MemoryModel<RegionInfo>,
    kvm: bool,
) -> fmt::Result {
    let Some(root) = &view.root else {
        return Ok(());
    };
    let flat = model.view(root.space);
    for run in flat.ranges() {
        write_range(out, run, kvm)?;
    }
    Ok(())
}

fn write_range(out: &mut String, run: &FlatRange<RegionInfo>, kvm: bool) -> fmt::Result {
    let (range, info) = (run.range(), run.region().handle());
    let attributes = run.attributes();
    let nonvolatile = if attributes.nonvolatile { "nv-" } else { "" };
    let kind = match attributes.readonly {
        true => "rom",
        false => info.kind.word(),
    };
    write!(
        out,
        "  {:016x}-{:016x} (prio {}, {nonvolatile}{kind}): {}",
        range.start(),
        range.last(),
        info.priority,
        run.region().name()
    )?;
    if run.offset() != 0 {
        write!(out, " @{:016x}", run.offset())?;
    }
    if kvm && info.kind.is_memory() && has_slot(run) {
        write!(out, " KVM")?;
    }
    writeln!(out)
}

/// Returns whether a range of memory is a KVM slot as it is: it has whole pages
/// only.
fn has_slot(run: &FlatRange<RegionInfo>) -> bool {
    let range = run.range();
    range.start() % 0x1000 == 0 && range.size() % 0x1000 == 0
}
