// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The map as text.

use std::fmt::Write;

use crate::map::Map;

/// The region tree, children below their parents, by address.
pub fn tree(map: &Map) -> String {
    let mut out = String::from("Region tree\n");
    for row in &map.tree {
        let indent = "  ".repeat(row.depth + 1);
        let range = format!("{indent}{:016x}-{:016x}", row.start, row.last);
        let mut words = Vec::new();
        if row.priority != 0 {
            words.push(match row.priority {
                i32::MAX => "above all".to_string(),
                priority => format!("priority {priority}"),
            });
        }
        if !row.enabled {
            words.push("disabled".into());
        }
        if row.readonly {
            words.push("read-only".into());
        }
        if !row.note.is_empty() {
            words.push(row.note.clone());
        }
        line(
            &mut out,
            format_args!(
                "{range:<44} {:<12} {:<22} {}",
                row.kind,
                row.name,
                words.join("; ")
            ),
        );
    }
    out
}

/// The flat view, by address.
pub fn flat(map: &Map) -> String {
    let mut out = String::from("Flat view\n");
    for row in &map.flat {
        let place = match row.offset {
            0 => row.region.clone(),
            offset => format!("{} + {offset:#x}", row.region),
        };
        let slot = row.slot.map_or(String::new(), |id| format!("slot {id}"));
        let access = row.access;
        line(
            &mut out,
            format_args!(
                "  {:016x}-{:016x}  {access:<17} {:<12} {slot:<9} {place:<30} {}",
                row.start, row.last, row.kind, row.note
            ),
        );
    }
    out
}

/// The memslots, by number.
pub fn slots(map: &Map) -> String {
    let mut out = String::from(
        "Memslots\n    id  gpa               size          flags            backing\n",
    );
    for row in &map.slots {
        let flags = match row.flags.is_empty() {
            true => "-".to_string(),
            false => row.flags.join("|"),
        };
        line(
            &mut out,
            format_args!(
                "  {:>4}  {:016x}  {:<12}  {flags:<15}  {}",
                row.id,
                row.gpa,
                format!("{:#x}", row.size),
                row.backing
            ),
        );
    }
    out
}

/// Appends a line, without blanks at its end.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", text.to_string().trim_end());
}
