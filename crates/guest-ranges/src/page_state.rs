// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a page, private or shared, and where its bytes are.

/// Who may access a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
// Exhaustive: code that converts pages has to handle each state.
pub enum PageState {
    /// The guest and the host.
    Shared,
    /// Only the guest.
    Private,
}

impl PageState {
    /// The other state.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Shared => Self::Private,
            Self::Private => Self::Shared,
        }
    }
}

/// The pages of a piece of RAM that a guest_memfd holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
// Exhaustive: code that converts pages has to know where each side is.
pub enum GuestMemfdSides {
    /// Only the private pages. Shared pages are in separate host memory.
    Private,
    /// Only shared pages. The host memory is a mapping of this file, and the guest has
    /// no private pages here.
    Shared,
    /// Both, in place. The host memory is a mapping of this file. The host may access
    /// the pages that are currently shared.
    Both,
}
