// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The operations of a plan. Each makes one ioctl.

use std::fmt;

use guest_ranges::PageRange;

use crate::slots::slot::Slot;

/// One operation on memslots or page attributes. `Delete` and `from` have the
/// complete old slot, so that the operation can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// The slot is deleted.
    Delete(Slot),
    /// The slot moves to another guest-physical address; logging may change.
    Move {
        /// The current slot.
        from: Slot,
        /// The new slot.
        to: Slot,
    },
    /// Dirty logging starts or stops.
    SetFlags {
        /// The current slot.
        from: Slot,
        /// The new slot.
        to: Slot,
    },
    /// The slot is created.
    Create(Slot),
    /// Shared pages become private, or private pages shared
    /// (`KVM_SET_MEMORY_ATTRIBUTES`). No slot changes.
    SetPrivate {
        /// The pages.
        pages: PageRange,
        /// Whether they become private.
        private: bool,
    },
}

impl Op {
    /// The operation that undoes this one.
    pub fn inverse(&self) -> Self {
        match self {
            Self::Delete(slot) => Self::Create(slot.clone()),
            Self::Create(slot) => Self::Delete(slot.clone()),
            Self::Move { from, to } => Self::Move {
                from: to.clone(),
                to: from.clone(),
            },
            Self::SetFlags { from, to } => Self::SetFlags {
                from: to.clone(),
                to: from.clone(),
            },
            Self::SetPrivate { pages, private } => Self::SetPrivate {
                pages: *pages,
                private: !private,
            },
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete(s) => write!(f, "DELETE slot {} at {:#x}", s.id, s.gpa()),
            Self::Move { from, to } => {
                write!(
                    f,
                    "MOVE slot {} from {:#x} to {:#x}",
                    to.id,
                    from.gpa(),
                    to.gpa()
                )
            }
            Self::SetFlags { to, .. } => {
                let logging = if to.log_dirty() { "starts" } else { "stops" };
                write!(
                    f,
                    "FLAGS slot {} at {:#x}: dirty log {logging}",
                    to.id,
                    to.gpa()
                )
            }
            Self::Create(s) => write!(
                f,
                "CREATE slot {} at {:#x}, {:#x} bytes",
                s.id,
                s.gpa(),
                s.size()
            ),
            Self::SetPrivate { pages, private } => {
                let state = if *private { "private" } else { "shared" };
                write!(
                    f,
                    "ATTRIBUTES at {:#x}, {:#x} bytes: {state}",
                    pages.start(),
                    pages.size()
                )
            }
        }
    }
}
