// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a dump, and where.

use std::io;

/// Why a dump could not be read or rendered: the file, the line and what was
/// expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
#[non_exhaustive]
pub struct DumpError {
    /// The file as it was named.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub what: String,
}

/// Why a file could not be read as a dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It could not be read.
    #[error("{file}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is no dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
}

/// A fault at a line of a text whose name only the caller knows.
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

    /// The fault with the name of the file that it is in.
    pub(crate) fn in_file(self, file: &str) -> DumpError {
        DumpError {
            file: file.to_string(),
            line: self.line,
            what: self.what.replace(char::is_control, HARMLESS),
        }
    }
}

/// Stands for what a terminal would act upon, in what is quoted of a dump.
const HARMLESS: &str = "\u{fffd}";
