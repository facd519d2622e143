// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Flat views as `info mtree -f` prints them.

use std::fmt::{self, Write};

use memory_model::{FlatRange, MemoryModel};

use super::import::{Imported, Shown, View};

/// The whole listing.
///
/// QEMU lists views in the order of a hash table of pointers, and a view's
/// address spaces by age. Neither is in a dump: here, views come in the order
/// of their first address space in the dump; and in a view first `memory`, then
/// `I/O`, which are the oldest in every machine.
pub(super) fn text(imported: &Imported) -> String {
    let mut text = String::new();
    for (number, view) in imported.views.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write_view(&mut text, number, view, imported);
    }
    text
}

fn write_view(out: &mut String, number: usize, view: &View, imported: &Imported) -> fmt::Result {
    writeln!(out, "FlatView #{number}")?;
    let mut shown_by: Vec<_> = view.shown_by.iter().collect();
    shown_by.sort_by_key(|space| match &*space.name {
        "memory" => 0,
        "I/O" => 1,
        _ => 2,
    });
    for space in shown_by {
        write!(out, " AS \"{}\", root: {}", space.name, space.root)?;
        if let Some(alias) = &space.alias {
            write!(out, ", alias {alias}")?;
        }
        writeln!(out)?;
    }
    let root = view.root.as_ref().map_or("(none)", |(name, _)| name);
    writeln!(out, " Root memory region: {root}")?;
    // KVM has slots for guest memory, which is what this address space shows.
    let kvm = imported.kvm && view.shown_by.iter().any(|space| space.name == "memory");
    let before = out.len();
    write_ranges(out, view, &imported.model, kvm)?;
    if out.len() == before {
        writeln!(out, "  No rendered FlatView")?;
    }
    writeln!(out)
}

fn write_ranges(
    out: &mut String,
    view: &View,
    model: &MemoryModel<Shown>,
    kvm: bool,
) -> fmt::Result {
    let Some((_, space)) = &view.root else {
        return Ok(());
    };
    let flat = model.view(*space);
    for run in flat.ranges() {
        write_range(out, run, kvm)?;
    }
    Ok(())
}

fn write_range(out: &mut String, run: &FlatRange<Shown>, kvm: bool) -> fmt::Result {
    let (range, shown) = (run.range(), run.region().handle());
    let attributes = run.attributes();
    let nonvolatile = if attributes.nonvolatile { "nv-" } else { "" };
    let kind = match attributes.readonly {
        true => "rom",
        false => shown.kind.word(),
    };
    write!(
        out,
        "  {:016x}-{:016x} (prio {}, {nonvolatile}{kind}): {}",
        range.start(),
        range.last(),
        shown.priority,
        run.region().name()
    )?;
    if run.offset() != 0 {
        write!(out, " @{:016x}", run.offset())?;
    }
    if kvm && shown.kind.is_memory() && has_slot(run) {
        write!(out, " KVM")?;
    }
    writeln!(out)
}

/// Whether a range of memory is a slot just as it is: whole pages.
fn has_slot(run: &FlatRange<Shown>) -> bool {
    let range = run.range();
    range.start().is_multiple_of(0x1000) && range.size().is_multiple_of(0x1000)
}
