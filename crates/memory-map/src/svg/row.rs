// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The common interface of the rows of the three columns.

use super::words;
use crate::map::Map;
use crate::rows::{FlatRow, SlotRow, TreeRow};

/// A row that covers a range of addresses.
pub trait Row {
    /// Returns the first address.
    fn start(&self) -> u128;
    /// Returns the end address, exclusive.
    fn end(&self) -> u128;
    /// Returns the name to display.
    fn name(&self) -> String;
    /// Returns a key that all rows of a series share, and no other row.
    fn class(&self) -> String;

    /// Returns the number of bytes.
    fn size(&self) -> u128 {
        self.end() - self.start()
    }
}

impl Row for TreeRow {
    fn start(&self) -> u128 {
        self.start
    }

    fn end(&self) -> u128 {
        self.last + 1
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn class(&self) -> String {
        let switches = (self.depth, self.priority, self.enabled, self.readonly);
        let words = (words::stem(&self.name), self.kind, words::stem(&self.note));
        format!("tree {switches:?} {words:?} {}", self.size())
    }
}

impl Row for FlatRow {
    fn start(&self) -> u128 {
        self.start.into()
    }

    fn end(&self) -> u128 {
        u128::from(self.last) + 1
    }

    fn name(&self) -> String {
        match self.offset {
            0 => self.region.clone(),
            offset => format!("{} + {offset:#x}", self.region),
        }
    }

    fn class(&self) -> String {
        let words = (
            words::stem(&self.region),
            self.kind,
            words::stem(&self.note),
        );
        let host = (self.host_mapped, self.private_side);
        let how = (self.access, host, self.slot.is_some());
        format!("flat {words:?} {how:?} {}", self.size())
    }
}

impl Row for SlotRow {
    fn start(&self) -> u128 {
        self.gpa.into()
    }

    fn end(&self) -> u128 {
        u128::from(self.gpa) + u128::from(self.size)
    }

    fn name(&self) -> String {
        format!("slot {}", self.id)
    }

    fn class(&self) -> String {
        format!(
            "slot {:?} {} {}",
            self.flags,
            words::stem(&self.behind.join(", ")),
            self.size
        )
    }
}

impl Map {
    /// Returns the regions with a place in the address space. The other regions
    /// are in trees of their own, as targets of aliases.
    pub(super) fn placed(&self) -> &[TreeRow] {
        let next_root = self.tree.iter().skip(1).position(|row| row.depth == 0);
        &self.tree[..next_root.map_or(self.tree.len(), |index| index + 1)]
    }

    /// Returns the regions without a place in the address space.
    pub(super) fn unplaced(&self) -> &[TreeRow] {
        &self.tree[self.placed().len()..]
    }
}

/// A description of several rows in one line.
pub struct Summary {
    /// Such as `238 more of dev#`.
    pub head: String,
    /// Such as `4 KiB each, dev1 … dev238`.
    pub detail: String,
}

/// Summarizes rows that are not drawn one by one.
pub fn summary<T: Row>(rows: &[&T]) -> Summary {
    let stems = distinct(rows.iter().map(|row| words::stem(&row.name())));
    let mut sizes = distinct(rows.iter().map(|row| row.size()));
    sizes.sort_unstable();
    let sizes = match *sizes.as_slice() {
        [] => String::new(),
        [one] => format!("{} each", words::size(one)),
        [one, two] => format!("{} or {} each", words::size(one), words::size(two)),
        [least, .., most] => format!("{} to {} each", words::size(least), words::size(most)),
    };
    let names = match rows {
        [] => String::new(),
        [one] => one.name(),
        [first, .., last] => format!("{} … {}", first.name(), last.name()),
    };
    let of = match (stems.len(), common_start(&stems)) {
        (1, stem) => format!(" of {stem}"),
        (_, "") => String::new(),
        (_, start) => format!(" of {}…", start.trim_end_matches(['.', '-', '_', '@', ' '])),
    };
    Summary {
        head: format!("{} more{of}", rows.len()),
        detail: format!("{sizes}: {names}"),
    }
}

/// Returns the longest common prefix of the texts.
fn common_start(texts: &[String]) -> &str {
    let Some((first, others)) = texts.split_first() else {
        return "";
    };
    let common = |n: &usize| others.iter().all(|other| other.starts_with(&first[..*n]));
    let ends = first.char_indices().map(|(n, c)| n + c.len_utf8());
    &first[..ends.take_while(common).last().unwrap_or(0)]
}

/// Returns each value once, in the order of first appearance. A few values
/// suffice to show that there are many.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut out = Vec::new();
    for value in values {
        if !out.contains(&value) {
            out.push(value);
        }
        if out.len() > 8 {
            break;
        }
    }
    out
}
