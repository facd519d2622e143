// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What stands around a dump, or instead of it: the monitor's own lines, and what
//! other forms of the command print.

/// Whether a line is none of a dump but the monitor's: what it greets with, or
/// its prompt with an echo of the command.
pub(super) fn is_monitor(line: &str) -> bool {
    line.starts_with("(qemu)") || (line.starts_with("QEMU ") && line.contains(" monitor"))
}

/// What QEMU prints for `info mtree -f`, which has no trees.
pub(super) const FLAT: &str = "this is `info mtree -f`, already flat; print `info mtree -D`";

/// Whether a line is one of a flat view's heading, quoted or not.
pub(super) fn is_flat(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '>', '|']);
    let starts = ["FlatView #", "AS \"", "Root memory region: "];
    // With -d too.
    starts.iter().any(|start| line.starts_with(start)) || line == "Dispatch"
}

/// What QEMU prints for `info mtree -o`: names and owners cannot be distinguished.
pub(super) const OWNED: &str =
    "this is `info mtree -o`, which also prints owners; print `info mtree -D`";

/// Whether a region's line ends with its owner.
pub(super) fn is_owned(line: &str) -> bool {
    let has = |what: &str| line.contains(what);
    has(" (prio ") && line.ends_with('}') && (has(" owner:{") || has(" parent:{"))
}

/// The last line of a dump, unless it is the empty line or the prompt that QEMU
/// prints after the last tree.
pub(crate) fn open_end(text: &str) -> Option<usize> {
    let last = text.lines().next_back()?;
    let line = last.trim_matches([' ', '\t', '>', '|', '\r']);
    let is_ended = line.is_empty() || is_monitor(line);
    (!is_ended).then(|| text.lines().count())
}
