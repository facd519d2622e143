// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats the map as text, in lines of [`WIDTH`] columns, or of another width with
//! a [`Layout`].
//!
//! A name or a note that does not fit on its row continues below it. Names come
//! from the caller and can have any length. A word that is wider than a line is
//! not broken. Each character counts as one column, so that text in wide
//! characters, such as Chinese, takes more.

use std::fmt::Write;

use crate::map::Map;

/// The maximum width of a line, in columns, unless a [`Layout`] has another.
pub const WIDTH: usize = 80;

/// Lays out text in lines of a given width, such as a terminal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    width: usize,
}

impl Default for Layout {
    /// Lines of [`WIDTH`] columns.
    fn default() -> Self {
        Self::new(WIDTH)
    }
}

/// Formats the region tree: children below their parents, by address.
pub fn tree(map: &Map) -> String {
    Layout::default().tree(map)
}

/// Formats the flat view, by address.
pub fn flat(map: &Map) -> String {
    Layout::default().flat(map)
}

/// Formats the memslots, by number.
pub fn slots(map: &Map) -> String {
    Layout::default().slots(map)
}

/// Formats a row of a table: [`Layout::row`] in [`WIDTH`] columns.
pub fn row(columns: &str, name: &str, note: &str, indent: usize) -> String {
    Layout::default().row(columns, name, note, indent)
}

/// Breaks lines between words: [`Layout::fill`] in [`WIDTH`] columns.
pub fn fill(start: &str, text: &str, indent: usize) -> String {
    Layout::default().fill(start, text, indent)
}

impl Layout {
    /// Lines of at most `width` columns.
    pub const fn new(width: usize) -> Self {
        Self { width }
    }

    /// Formats the region tree: children below their parents, by address.
    pub fn tree(&self, map: &Map) -> String {
        let mut out = String::from("Region tree\n");
        for tree_row in &map.tree {
            let indent = 2 * (tree_row.depth + 1);
            let range = format!(
                "{:indent$}{:016x}-{:016x}",
                "", tree_row.start, tree_row.last
            );
            let mut words = Vec::new();
            if tree_row.priority != 0 {
                words.push(match tree_row.priority {
                    i32::MAX => "above all".to_string(),
                    priority => format!("priority {priority}"),
                });
            }
            if !tree_row.enabled {
                words.push("disabled".into());
            }
            if tree_row.readonly {
                words.push("read-only".into());
            }
            if !tree_row.note.is_empty() {
                words.push(tree_row.note.clone());
            }
            let head = format!("{range:<39} {:<12} ", tree_row.kind);
            out += &self.row(&head, &tree_row.name, &words.join("; "), indent + 4);
        }
        out
    }

    /// Formats the flat view, by address.
    pub fn flat(&self, map: &Map) -> String {
        let heads = "  start            last             access    kind        slot region";
        let mut out = format!("Flat view\n{}", self.row(heads, "", "", 6));
        for flat_row in &map.flat {
            let place = match flat_row.offset {
                0 => flat_row.region.clone(),
                offset => format!("{} + {offset:#x}", flat_row.region),
            };
            let slot = flat_row.slot.map_or(String::new(), |id| id.to_string());
            let head = format!(
                "  {:016x}-{:016x} {:<9} {:<12} {slot:>3} ",
                flat_row.start, flat_row.last, flat_row.access, flat_row.kind
            );
            out += &self.row(&head, &place, &flat_row.note, 6);
        }
        out
    }

    /// Formats the memslots, by number.
    pub fn slots(&self, map: &Map) -> String {
        let heads = "   id gpa              size        flags       backing";
        let mut out = format!("Memslots\n{}", self.row(heads, "", "", 6));
        for slot in &map.slots {
            let flags = match slot.flags.is_empty() {
                true => "-".to_string(),
                false => slot.flags.join("|"),
            };
            let size = format!("{:#x}", slot.size);
            let head = format!("  {:>3} {:016x} {size:<11} {flags:<11} ", slot.id, slot.gpa);
            out += &self.row(&head, &slot.backing, "", 6);
        }
        out
    }

    /// Formats a row of a table: fixed columns, then a name, then a note. Text that
    /// does not fit on the line continues below, from column `indent` on. Columns
    /// that are wider than a line are not aligned, and continue in the same way.
    pub fn row(&self, columns: &str, name: &str, note: &str, indent: usize) -> String {
        let both = match note {
            "" => name.to_string(),
            note => format!("{name}: {note}"),
        };
        let fits = |text: &str| columns.chars().count() + text.chars().count() <= self.width;
        let margin = " ".repeat(indent);
        let below = |text: &str| self.fill(&margin, text, indent);
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = if fits(&both) {
            writeln!(out, "{}", format!("{columns}{both}").trim_end())
        } else if fits(name) {
            writeln!(out, "{columns}{name}\n{}", below(note))
        } else if fits("") || columns.trim_end().chars().count() <= self.width {
            writeln!(out, "{}\n{}", columns.trim_end(), below(&both))
        } else {
            let words: Vec<&str> = columns.split_whitespace().collect();
            let start = &columns[..columns.len() - columns.trim_start().len()];
            let columns = self.fill(start, &words.join(" "), indent);
            match both.as_str() {
                "" => writeln!(out, "{columns}"),
                both => writeln!(out, "{columns}\n{}", below(both)),
            }
        };
        out
    }

    /// Appends `text` to `start` and breaks lines between words where they would
    /// become wider than a line. Further lines start at column `indent`.
    pub fn fill(&self, start: &str, text: &str, indent: usize) -> String {
        let mut out = start.to_string();
        let mut column = start.chars().count();
        for (n, word) in text.split(' ').enumerate() {
            let width = word.chars().count();
            if n > 0 && column + 1 + width > self.width {
                out.truncate(out.trim_end().len());
                out += "\n";
                out += &" ".repeat(indent);
                column = indent;
            } else if n > 0 {
                out += " ";
                column += 1;
            }
            out += word;
            column += width;
        }
        out.truncate(out.trim_end().len());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, WIDTH, fill, row};

    #[test]
    fn a_name_and_a_note_follow_below_where_they_do_not_fit() {
        let columns = "-".repeat(WIDTH - 10);
        assert_eq!(
            row(&columns, "name", "note", 4),
            format!("{columns}name: note\n")
        );
        let below = format!("{columns}name\n    a note\n");
        assert_eq!(row(&columns, "name", "a note", 4), below);
        let below = format!("{columns}\n    a long name: note\n");
        assert_eq!(row(&columns, "a long name", "note", 4), below);
        assert_eq!(row("  trap  ", "", "", 4), "  trap\n");
    }

    #[test]
    fn lines_are_as_wide_as_they_may_be_and_words_stay_whole() {
        let text = "x".repeat(WIDTH - 4);
        assert_eq!(fill("ab: ", &text, 4), format!("ab: {text}"));
        let two = format!("{text} y");
        assert_eq!(fill("ab: ", &two, 4), format!("ab: {text}\n    y"));
        let long = "x".repeat(2 * WIDTH);
        assert_eq!(
            fill("", &format!("a {long} b"), 2),
            format!("a\n  {long}\n  b")
        );
    }

    #[test]
    fn a_wide_line_has_the_note_that_a_narrow_one_has_below() {
        let row = |width| Layout::new(width).row("  1 ok  ", "ram", "it is shared", 4);
        assert_eq!(
            row(24),
            "  1 ok  ram: it is shared\n".replace(": ", "\n    ")
        );
        assert_eq!(row(25), "  1 ok  ram: it is shared\n");
        assert_eq!(row(10), "  1 ok\n    ram:\n    it is\n    shared\n");
    }

    #[test]
    fn columns_that_are_wider_than_a_line_continue_below() {
        let columns = "   1 ok write         0x1008   0x8 direct  ";
        let row = |name| Layout::new(24).row(columns, name, "", 10);
        let wrapped = "   1 ok write 0x1008 0x8\n          direct\n";
        assert_eq!(row(""), wrapped);
        assert_eq!(row("ram"), format!("{wrapped}          ram\n"));
    }
}
