// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The prefix of every line of a paste: the marks of a quoted mail, or the spaces
//! of an indented block.

use super::line::HEADINGS;

/// How a text was pasted.
#[derive(Debug)]
pub(super) struct Paste<'a> {
    /// What is in front of every line.
    pub(super) prefix: &'a str,
}

impl<'a> Paste<'a> {
    /// By the first heading, which has nothing in front of it in QEMU's own output.
    pub(super) fn of(text: &'a str) -> Self {
        let prefix = |line: &'a str| {
            let behind = line.trim_start_matches(|c| " \t>|\u{feff}".contains(c));
            let is_heading = HEADINGS.iter().any(|heading| behind.starts_with(heading));
            is_heading.then(|| &line[..line.len() - behind.len()])
        };
        let prefix = text.lines().find_map(prefix).unwrap_or_default();
        Self { prefix }
    }

    /// A line as QEMU printed it; `None` if the prefix is missing.
    pub(super) fn line(&self, line: &'a str) -> Option<&'a str> {
        // Of a serial console, whose lines end with two or more.
        let line = line.trim_end_matches('\r');
        match line.strip_prefix(self.prefix) {
            Some(line) if line.trim().is_empty() => Some(""),
            Some(line) => Some(line),
            // Trailing spaces may be lost.
            None if line.trim() == self.prefix.trim() => Some(""),
            // Of a byte order mark, which only the first line has.
            None if self.prefix == "\u{feff}" => Some(line),
            // Text above the dump has no prefix.
            None if !line.contains(" (prio ") && !HEADINGS.iter().any(|h| line.contains(h)) => {
                Some(line)
            }
            None => None,
        }
    }
}
