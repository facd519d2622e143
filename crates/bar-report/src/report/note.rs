// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Notes for people and scripts: the assumptions of a report, and possible errors in it.

use std::fmt;

use vfio_private::{BarIndex, BarKind};

/// The topic of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topic {
    /// The regions that VFIO lets userspace map, and the source of that list.
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

/// An assumption of a report: an unknown fact, another interpretation that fits, or a part that is
/// left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The topic.
    pub topic: Topic,
    /// The BAR that the note applies to; `None` for the device as a whole.
    pub bar: Option<BarIndex>,
    /// The text of the note.
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

    /// Returns whether the note applies to the BAR `index`. Notes about VFIO and the TDISP report
    /// do not apply to I/O ports, which always trap.
    pub fn concerns(&self, index: BarIndex, kind: BarKind) -> bool {
        match self.bar {
            Some(bar) => bar == index,
            None => self.topic == Topic::Device || kind == BarKind::Memory,
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
