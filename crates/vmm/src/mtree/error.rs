// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a dump, and where.

/// Why a dump could not be read or rendered: the file, the line and what was
/// expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct MtreeError {
    /// The file as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub what: String,
}

/// A fault at a line of a text whose name only the caller knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { line, what }
    }

    /// The fault with the name of the file that it is in.
    pub(super) fn in_file(self, file: &str) -> MtreeError {
        MtreeError {
            file: file.to_string(),
            line: self.line,
            what: self.what.replace(char::is_control, HARMLESS),
        }
    }
}

/// Stands for what a terminal would act upon, in what is quoted of a dump.
const HARMLESS: &str = "\u{fffd}";
