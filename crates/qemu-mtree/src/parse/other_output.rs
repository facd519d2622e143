// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recognizes text that is not part of a dump: the monitor's own lines, and the
//! output of other forms of the command.

/// Returns whether the monitor prints the line: its greeting, or its prompt
/// with an echo of the command.
pub(super) fn is_monitor(line: &str) -> bool {
    line.starts_with("(qemu)") || (line.starts_with("QEMU ") && line.contains(" monitor"))
}

/// The error for the output of `info mtree -f`, which has no trees.
pub(super) const FLAT: &str = "this is `info mtree -f`, already flat; print `info mtree -D`";

/// Returns whether a line belongs to the heading of a flat view, quoted or not.
pub(super) fn is_flat(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '\t', '>', '|']);
    let starts = ["FlatView #", "AS \"", "Root memory region: "];
    // `info mtree -f -d` also prints this line.
    starts.iter().any(|start| line.starts_with(start)) || line == "Dispatch"
}

/// The error for the output of `info mtree -o`: names and owners cannot be
/// distinguished.
pub(super) const OWNED: &str =
    "this is `info mtree -o`, which also prints owners; print `info mtree -D`";

/// Returns whether a region's line ends with its owner.
pub(super) fn is_owned(line: &str) -> bool {
    let has = |what: &str| line.contains(what);
    has(" (prio ") && line.ends_with('}') && (has(" owner:{") || has(" parent:{"))
}

/// Returns the last line of a dump, unless it is the empty line or the prompt
/// that QEMU prints after the last tree.
pub(crate) fn open_end(text: &str) -> Option<usize> {
    let last = text.lines().next_back()?;
    let line = last.trim_matches([' ', '\t', '>', '|', '\r']);
    let is_ended = line.is_empty() || is_monitor(line);
    (!is_ended).then(|| text.lines().count())
}
