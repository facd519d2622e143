// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors: what is wrong with a dump, and where.

use std::io;

/// A dump that could not be read or rendered: the file, the line, and what was
/// expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
#[non_exhaustive]
pub struct DumpError {
    /// The name of the file, as the caller gave it.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub what: String,
}

/// A file that could not be read as a dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file could not be read.
    #[error("{file}")]
    Io {
        /// The file.
        file: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file does not contain a valid dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
}

/// A fault at a line of a text. The caller adds the name of the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl Fault {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { line, what }
    }

    /// Adds the name of the file.
    pub(crate) fn in_file(self, file: &str) -> DumpError {
        DumpError {
            file: file.to_string(),
            line: self.line,
            what: self.what.replace(char::is_control, HARMLESS),
        }
    }
}

/// Replaces control characters in quotations from a dump, so that a terminal
/// does not interpret them.
const HARMLESS: &str = "\u{fffd}";
