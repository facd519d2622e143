// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Colours and patterns. The colours differ in lightness too, and nothing is
//! told by colour alone.

use memory_model::GuestAccess;

use crate::rows::FlatRow;

/// Text.
pub const INK: &str = "#1f2328";
/// Text that matters less.
pub const SOFT: &str = "#59636e";
/// Borders of boxes.
pub const EDGE: &str = "#6e7781";
/// Lines that only guide the eye.
pub const GUIDE: &str = "#d8dee4";
/// What has no host address.
pub const PRIVATE: &str = "#7b2d8b";
/// What the guest cannot have.
pub const REFUSED: &str = "#9a3412";

/// The edge of containers, and whatever stands for several looks.
pub const NEUTRAL: &str = "#e7ebef";

/// The attributes of a box that something covers.
pub const HIDDEN_BOX: &str = r##"fill="#eef0f2" stroke="#afb8c1" stroke-width="0.75""##;

/// The attributes of a box that is disabled.
pub const DISABLED_BOX: &str =
    r##"fill="#ffffff" stroke="#8c959f" stroke-width="0.9" stroke-dasharray="4 3""##;

/// The attributes of a box that stands for many.
pub const FOLD_BOX: &str =
    r##"fill="#ffffff" stroke="#6e7781" stroke-width="0.75" stroke-dasharray="1.5 2.5""##;

/// What a run of the flat view looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The guest reaches it, or the VMM answers.
    Answers {
        /// What loads and stores do.
        access: GuestAccess,
        /// Whether it is direct and the host has no address for it.
        private: bool,
    },
    /// Claimed, but nobody answers.
    Reserved,
}

impl Look {
    /// The look of a run.
    pub fn of(row: &FlatRow) -> Self {
        match row.kind {
            "reserved" => Self::Reserved,
            _ => Self::Answers {
                access: row.access,
                private: row.access.reads_directly() && !row.host_mapped,
            },
        }
    }

    /// The colour under everything.
    pub fn fill(self) -> &'static str {
        match self {
            Self::Answers { access, .. } => match access {
                GuestAccess::ReadWrite => "#a8cdf0",
                GuestAccess::ReadOnly => "#d3ecd0",
                GuestAccess::ReadTrapWrite => "#f7e59c",
                GuestAccess::Trap => "#f4b183",
            },
            Self::Reserved => "#eceef0",
        }
    }

    /// The pattern over it.
    pub fn pattern(self) -> Option<&'static str> {
        match self {
            Self::Answers { private: true, .. } => Some("url(#private)"),
            Self::Answers { private: false, .. } => None,
            Self::Reserved => Some("url(#reserved)"),
        }
    }

    /// Whether the host has no address for what the guest reaches.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Answers { private: true, .. })
    }
}

/// The patterns, for the document's head.
pub const DEFINITIONS: &str = r##"<defs>
<pattern id="private" width="9" height="9" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="3" height="9" fill="#7b2d8b" fill-opacity="0.22"/></pattern>
<pattern id="reserved" width="7" height="7" patternUnits="userSpaceOnUse"><path d="M0 0L7 7M7 0L0 7" stroke="#c4cad0" stroke-width="0.7"/></pattern>
</defs>
"##;
