// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a source, and where in it.

use std::io;

use vfio_private::config::ConfigError;
use vfio_private::report::ReportError;
use vfio_private::{ClassifyError, InputError, PlaceError};

use crate::causes::with_causes;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarsError {
    /// Neither a device nor a file was named.
    #[error("no device: name one by its address, or give --config FILE")]
    NoDevice,
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
    #[error("{file}: by --report-offset {rule}")]
    Place {
        /// The file.
        file: String,
        /// The rule.
        rule: &'static str,
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
        error: Box<BarsError>,
        /// Which choices avoid it.
        hint: String,
    },
}

/// A fault in a text whose name only the caller knows.
#[derive(Debug)]
pub(super) struct Fault {
    /// The line, counted from 1; none if no line is to blame.
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn at(line: usize, what: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            what: what.into(),
        }
    }

    pub(super) fn whole(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
        }
    }

    /// The fault with the name of the file that it is in.
    pub(super) fn in_file(self, file: &str) -> BarsError {
        let (file, what) = (file.to_string(), self.what);
        match self.line {
            Some(line) => BarsError::Line { file, line, what },
            None => BarsError::File { file, what },
        }
    }
}

/// At most this many characters of somebody's line are shown to them.
const MAX_SHOWN: usize = 100;

/// A part of the text as it can be shown: cut off where it becomes too long,
/// and without what a terminal would act upon.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).map(harmless).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// At most this many characters of what a parser of somebody else's says.
const MAX_SAID: usize = 400;

/// What such a parser says, which may quote any of the file: likewise, but cut
/// in the middle, because the end says where.
pub(super) fn said(words: &str) -> String {
    let half = MAX_SAID / 2;
    let chars = || words.chars().map(harmless);
    match words.chars().count().checked_sub(MAX_SAID) {
        None | Some(0) => chars().collect(),
        Some(more) => {
            let head: String = chars().take(half).collect();
            head + "…" + &chars().skip(half + more).collect::<String>()
        }
    }
}

fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}
