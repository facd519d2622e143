// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Removes the prefix of every line of a paste: the marks of a quoted mail, or
//! the indentation of a code block.

use super::line::HEADINGS;

/// The format of a pasted text.
#[derive(Debug)]
pub(super) struct Paste<'a> {
    /// The text before every line.
    pub(super) prefix: &'a str,
}

impl<'a> Paste<'a> {
    /// Detects the prefix from the first heading, which has no prefix in QEMU's
    /// own output.
    pub(super) fn of(text: &'a str) -> Self {
        let prefix = |line: &'a str| {
            let behind = line.trim_start_matches(|c| " \t>|\u{feff}".contains(c));
            let is_heading = HEADINGS.iter().any(|heading| behind.starts_with(heading));
            is_heading.then(|| &line[..line.len() - behind.len()])
        };
        let prefix = text.lines().find_map(prefix).unwrap_or_default();
        Self { prefix }
    }

    /// Returns a line as QEMU printed it; `None` if the prefix is missing.
    pub(super) fn line(&self, line: &'a str) -> Option<&'a str> {
        // The lines of a serial console end with two or more of them.
        let line = line.trim_end_matches('\r');
        match line.strip_prefix(self.prefix) {
            Some(line) if line.trim().is_empty() => Some(""),
            Some(line) => Some(line),
            // The paste may have lost trailing spaces.
            None if line.trim() == self.prefix.trim() => Some(""),
            // A byte order mark is only on the first line.
            None if self.prefix == "\u{feff}" => Some(line),
            // Text above the dump has no prefix.
            None if !line.contains(" (prio ") && !HEADINGS.iter().any(|h| line.contains(h)) => {
                Some(line)
            }
            None => None,
        }
    }
}
