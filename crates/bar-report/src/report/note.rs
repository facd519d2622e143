// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One list of notes for people and scripts: what a report depends on, and what
//! may be wrong with it.

use std::fmt;

use vfio_private::{Bar, BarIndex, BarKind};

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topic {
    /// What VFIO lets userspace map, and who says so.
    Regions,
    /// The TDISP report.
    Report,
    /// The device and the source that describes it.
    Device,
}

impl Topic {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Regions => "VFIO maps",
            Self::Report => "TDISP",
            Self::Device => "Note",
        }
    }
}

/// Something to know about a report: a fact that is not known, another
/// interpretation that fits, a part that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub topic: Topic,
    /// The BAR that it is about; `None` for the device as a whole.
    pub bar: Option<BarIndex>,
    /// The note in words.
    pub text: String,
}

impl Note {
    pub(crate) fn new(topic: Topic, text: impl Into<String>) -> Self {
        Self {
            topic,
            bar: None,
            text: text.into(),
        }
    }

    pub(crate) fn of_bar(self, bar: BarIndex) -> Self {
        Self {
            bar: Some(bar),
            ..self
        }
    }

    /// Whether it applies to `bar`. Notes on VFIO and on the report do not apply
    /// to I/O ports, which always trap.
    pub fn concerns(&self, bar: Bar) -> bool {
        match self.bar {
            Some(index) => index == bar.index(),
            None => self.topic == Topic::Device || bar.kind() == BarKind::Memory,
        }
    }
}

/// For example `TDISP: no report: nothing is private`.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.topic {
            Topic::Device => f.write_str(&self.text),
            topic => write!(f, "{}: {}", topic.label(), self.text),
        }
    }
}
