// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors: what is wrong with a source, and where in it.

use std::io;

use vfio_private::config::ConfigError;
use vfio_private::report::ReportError;
use vfio_private::{ClassifyError, InputError, OffsetRule, PlaceError};

use crate::error_chain::with_causes;
use crate::quote::quoted;

/// The reason why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarReportError {
    /// A file could not be read.
    #[error("{file}")]
    Io {
        /// The file.
        file: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file as a whole is invalid.
    #[error("{file}: {what}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A line is invalid.
    #[error("{file}:{line}: {what}")]
    Line {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What was found and what was expected.
        what: String,
    },
    /// Configuration space is invalid.
    #[error("{file}: configuration space")]
    Config {
        /// The file, and the place of the dump in it.
        file: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A BAR cannot have the properties that its source states.
    #[error("{file}")]
    Input {
        /// The file.
        file: String,
        /// What is wrong.
        source: InputError,
    },
    /// The TDISP report is invalid.
    #[error("{file}: TDISP report")]
    Report {
        /// The file.
        file: String,
        /// What is wrong.
        source: ReportError,
    },
    /// The TDISP report does not fit the device.
    #[error("{file}: by {name}")]
    Place {
        /// The file.
        file: String,
        /// The rule.
        rule: OffsetRule,
        /// The name of the rule in the [`Wording`](crate::Wording).
        name: &'static str,
        /// What does not fit.
        source: PlaceError,
    },
    /// The facts contradict each other.
    #[error("{place}")]
    Classify {
        /// The place of the last of these facts: a file, perhaps with a line or an offset.
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

/// A fault in a text. The caller adds the name of the text.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The line, counted from 1; none if the fault is not in one line.
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

    /// Creates the fault for a line that was not understood, with the expected text.
    pub(crate) fn not_understood(line: usize, text: &str, expected: &str) -> Self {
        Self::at(line, format!("expected {expected} in '{}'", quoted(text)))
    }

    pub(crate) fn whole(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
        }
    }

    /// Adds the name of the file.
    pub(crate) fn in_file(self, file: &str) -> BarReportError {
        let (file, what) = (file.to_string(), self.what);
        match self.line {
            Some(line) => BarReportError::Line { file, line, what },
            None => BarReportError::File { file, what },
        }
    }
}
