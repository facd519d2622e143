// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a source, and where in it.

use std::io;

use vfio_private::config::ConfigError;
use vfio_private::report::ReportError;
use vfio_private::{ClassifyError, InputError, OffsetRule, PlaceError};

use crate::error_chain::with_causes;
use crate::quote::shown;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarReportError {
    /// A file could not be read.
    #[error("{file}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something is wrong with a file as a whole.
    #[error("{file}: {what}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// Something is wrong with a line.
    #[error("{file}:{line}: {what}")]
    Line {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What was found and what was expected.
        what: String,
    },
    /// Configuration space makes no sense.
    #[error("{file}: configuration space")]
    Config {
        /// The file, and the place of the dump in it.
        file: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A BAR cannot be as its source says.
    #[error("{file}")]
    Input {
        /// The file.
        file: String,
        /// What is wrong.
        source: InputError,
    },
    /// The report makes no sense.
    #[error("{file}: TDISP report")]
    Report {
        /// The file.
        file: String,
        /// What is wrong.
        source: ReportError,
    },
    /// The report does not fit the device.
    #[error("{file}: by {name}")]
    Place {
        /// The file.
        file: String,
        /// The rule.
        rule: OffsetRule,
        /// What the [`Wording`](crate::Wording) calls it.
        name: &'static str,
        /// What does not fit.
        source: PlaceError,
    },
    /// The facts do not fit each other.
    #[error("{place}")]
    Classify {
        /// The place of the last of them: a file, perhaps with a line or an offset.
        place: String,
        /// What does not fit.
        source: ClassifyError,
    },
    /// An error that other choices would avoid.
    #[error("{}; {hint}", with_causes(error))]
    Avoidable {
        /// What is wrong.
        error: Box<BarReportError>,
        /// Which choices avoid it.
        hint: String,
    },
}

/// A fault in a text whose name only the caller knows.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The line, counted from 1; none if no line is to blame.
    pub(crate) line: Option<usize>,
    pub(crate) what: String,
}

impl Fault {
    pub(crate) fn at(line: usize, what: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            what: what.into(),
        }
    }

    /// A line that was not understood, and what was expected in it.
    pub(crate) fn not_understood(line: usize, text: &str, expected: &str) -> Self {
        Self::at(line, format!("expected {expected} in '{}'", shown(text)))
    }

    pub(crate) fn whole(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
        }
    }

    /// The fault with the name of the file that it is in.
    pub(crate) fn in_file(self, file: &str) -> BarReportError {
        let (file, what) = (file.to_string(), self.what);
        match self.line {
            Some(line) => BarReportError::Line { file, line, what },
            None => BarReportError::File { file, what },
        }
    }
}
