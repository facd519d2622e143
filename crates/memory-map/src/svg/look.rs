// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Defines colours and patterns, in a light and a dark form. The colours also differ in lightness, and no
//! information depends on colour alone.

use memory_model::GuestAccess;

use crate::rows::FlatRow;

/// The background of the page.
pub const PAPER: &str = "#ffffff";
/// Text.
pub const INK: &str = "#1f2328";
/// Less important text.
pub const SOFT: &str = "#59636e";
/// Borders of boxes.
pub const EDGE: &str = "#6e7781";
/// Lines that only guide the eye.
pub const GUIDE: &str = "#d8dee4";
/// Memory without a host address.
pub const PRIVATE: &str = "#7b2d8b";
/// Memory that the guest cannot reach.
pub const REFUSED: &str = "#9a3412";

/// The edge of containers, and boxes that represent several looks.
pub const NEUTRAL: &str = "#e7ebef";

/// The attributes of a covered box.
pub const HIDDEN_BOX: &str = r##"fill="#eef0f2" stroke="#afb8c1" stroke-width="0.75""##;

/// The attributes of a disabled box.
pub const DISABLED_BOX: &str =
    r##"fill="#ffffff" stroke="#8c959f" stroke-width="0.9" stroke-dasharray="4 3""##;

/// The attributes of a box that represents many.
pub const FOLD_BOX: &str =
    r##"fill="#ffffff" stroke="#6e7781" stroke-width="0.75" stroke-dasharray="1.5 2.5""##;

/// The part of a run that the host has an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Nothing hides it from the host.
    Open,
    /// The pages that are shared: the memory has a private side.
    Shared,
    /// None of it, although the guest reaches it directly.
    Nothing,
}

/// The look of a run of the flat view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The guest reaches the memory directly, or the VMM emulates it.
    Answers {
        /// The effect of loads and stores.
        access: GuestAccess,
        /// What the host has an address for.
        host: Host,
    },
    /// A region claims the addresses, but does not answer.
    Reserved,
}

impl Look {
    /// Returns the look of a run.
    pub fn of(row: &FlatRow) -> Self {
        match row.kind {
            "reserved" => Self::Reserved,
            _ => Self::Answers {
                access: row.access,
                host: match row.access.reads_directly() {
                    true if !row.host_mapped => Host::Nothing,
                    true if row.private_side => Host::Shared,
                    _ => Host::Open,
                },
            },
        }
    }

    /// Returns the background colour.
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

    /// Returns the pattern over the background.
    pub fn pattern(self) -> Option<&'static str> {
        match self {
            Self::Answers { host, .. } => match host {
                Host::Open => None,
                Host::Shared | Host::Nothing => Some("url(#private)"),
            },
            Self::Reserved => Some("url(#reserved)"),
        }
    }

    /// Returns whether the memory has a private side.
    pub fn has_private_side(self) -> bool {
        matches!(
            self,
            Self::Answers {
                host: Host::Shared,
                ..
            }
        )
    }

    /// Returns whether the host has no address for memory that the guest
    /// reaches directly.
    pub fn is_private(self) -> bool {
        matches!(
            self,
            Self::Answers {
                host: Host::Nothing,
                ..
            }
        )
    }
}

/// Each colour, and the one that the dark form has in its place.
///
/// Elements have the colours of the light form as attributes, which every viewer
/// understands. A style sheet replaces them where the reader prefers the dark form.
pub const DARK: [(&str, &str); 17] = [
    (PAPER, "#0d1117"),
    (INK, "#f0f3f6"),
    (SOFT, "#c9d1d9"),
    (EDGE, "#8b949e"),
    (GUIDE, "#30363d"),
    (PRIVATE, "#e2a6f0"),
    (REFUSED, "#ffb27a"),
    (NEUTRAL, "#2b3138"),
    ("#eef0f2", "#1c2128"),
    ("#afb8c1", "#545d68"),
    ("#8c959f", "#768390"),
    ("#a8cdf0", "#1d4a75"),
    ("#d3ecd0", "#1f4d28"),
    ("#f7e59c", "#5a480b"),
    ("#f4b183", "#783a12"),
    ("#eceef0", "#22272e"),
    ("#c4cad0", "#444c56"),
];

/// Returns the style sheet of the dark form.
pub fn dark_style() -> String {
    let mut rules = String::new();
    for (light, dark) in DARK {
        for property in ["fill", "stroke"] {
            rules += &format!("[{property}=\"{light}\"]{{{property}:{dark}}}\n");
        }
    }
    format!("<style>@media (prefers-color-scheme:dark){{\n{rules}}}</style>\n")
}

/// The patterns, for the document's head.
pub const DEFINITIONS: &str = r##"<defs>
<pattern id="private" width="9" height="9" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="3" height="9" fill="#7b2d8b" fill-opacity="0.22"/></pattern>
<pattern id="reserved" width="7" height="7" patternUnits="userSpaceOnUse"><path d="M0 0L7 7M7 0L0 7" stroke="#c4cad0" stroke-width="0.7"/></pattern>
</defs>
"##;
