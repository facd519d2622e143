// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a conversion can end.

use std::fmt;

use super::check::Refusal;
use super::listener::ConversionListenerError;
use super::request::RequestError;
use crate::errno::Errno;
use crate::unsupported::Unsupported;
use guest_ranges::PageRange;

/// Pages of which something could not be done. A guest chooses how many there
/// are, so only the first is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many bytes.
    pub bytes: u64,
    /// The first pages, and what the kernel said.
    pub first: Option<(PageRange, Errno)>,
}

impl Failures {
    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn add(&mut self, range: PageRange, errno: Errno) {
        self.bytes = self.bytes.saturating_add(range.size());
        self.first.get_or_insert((range, errno));
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            Some((range, errno)) => write!(f, "{:#x} bytes, first {range}: {errno}", self.bytes),
            None => f.pad("nothing"),
        }
    }
}

/// A conversion that was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says which stale bytes are still there"]
#[non_exhaustive]
pub struct Converted {
    /// How many bytes changed hands. 0 if all were as asked for already:
    /// another vCPU was faster, and the guest just tries again.
    pub bytes: u64,
    /// Stale bytes that the kernel did not give up. The conversion holds; the
    /// host has less memory than it could, and the bytes may show again if
    /// the pages change back.
    pub not_discarded: Failures,
}

/// A revocation that was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says what the guest has lost"]
#[non_exhaustive]
pub struct Revoked {
    /// How many bytes the guest had accepted, and has lost.
    pub bytes: u64,
    /// Pages that are private for KVM as before, because it did not change
    /// that. They are not accepted any more.
    pub not_shared: Failures,
}

/// Why a conversion was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// It is no request. Nothing has changed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It is one that cannot be met. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The VM has no private pages. Nothing has changed.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A step failed, and those before it were undone.
    #[error(transparent)]
    Failed(Box<ConversionFailure>),
    /// A listener panicked in the middle of an earlier conversion: it is
    /// no longer known which pages are private.
    #[error("an earlier conversion was cut short by a panic")]
    CutShort,
}

impl ConvertError {
    /// What a guest that asked by hypercall finds in its return register:
    /// minus one of the numbers of include/uapi/linux/kvm_para.h.
    pub fn hypercall_return(&self) -> i64 {
        const KVM_EINVAL: i64 = 22;
        const KVM_EOPNOTSUPP: i64 = 95;
        match self {
            Self::Unsupported(_) => -KVM_EOPNOTSUPP,
            Self::Request(_) | Self::Refused(_) | Self::Failed(_) | Self::CutShort => -KVM_EINVAL,
        }
    }
}

/// Which step of a conversion failed, and what it left behind.
#[derive(Debug, thiserror::Error)]
#[error("conversion of {range}: {cause}{}", rest(.not_undone))]
#[non_exhaustive]
pub struct ConversionFailure {
    /// The whole range asked for.
    pub range: PageRange,
    /// The step.
    pub cause: FailedStep,
    /// What could not be undone of the steps before it: empty, and then
    /// nothing has changed, unless that failed too.
    pub not_undone: NotConvertedBack,
}

fn rest(not_undone: &NotConvertedBack) -> String {
    match not_undone.is_empty() {
        true => String::new(),
        false => format!("; not undone: {not_undone}"),
    }
}

/// The step of a conversion that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailedStep {
    /// KVM did not change the attributes of these pages.
    #[error("attributes of {range}: {errno}")]
    Attributes {
        /// The pages.
        range: PageRange,
        /// What the kernel said.
        errno: Errno,
    },
    /// A listener refused.
    #[error("listener '{name}': {source}")]
    Listener {
        /// The listener's name.
        name: String,
        /// What it said.
        #[source]
        source: ConversionListenerError,
    },
}

/// What a conversion that failed could not undo.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NotConvertedBack {
    /// Pages that have changed hands all the same: KVM did not change their
    /// attributes back. This is how they are recorded.
    pub attributes: Failures,
    /// Listeners that could not go back: for each its name and the first thing
    /// it said.
    pub listeners: Vec<(String, ConversionListenerError)>,
}

impl NotConvertedBack {
    /// Whether all was undone.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.listeners.is_empty()
    }

    pub(super) fn add_listener(&mut self, name: &str, error: ConversionListenerError) {
        if !self.listeners.iter().any(|(known, _)| known == name) {
            self.listeners.push((name.to_string(), error));
        }
    }
}

impl fmt::Display for NotConvertedBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attributes of {}", self.attributes)?;
        for (name, error) in &self.listeners {
            write!(f, "; listener '{name}': {error}")?;
        }
        Ok(())
    }
}
