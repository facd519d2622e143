// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results and errors of conversions.

use std::fmt;

use super::check::Refusal;
use super::listener::ConversionListenerError;
use super::request::RequestError;
use crate::uapi::PreFaultError;
use crate::unsupported::Unsupported;
use crate::vm::errno::Errno;
use guest_ranges::PageRange;

/// The reason why a step did not change pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotChanged {
    /// The kernel's error.
    #[error("{0}")]
    Errno(Errno),
    /// Someone holds a reference to this page, which therefore cannot become private: a
    /// device's DMA mapping, or a system call that reads or writes the page. Listeners
    /// were asked to release it.
    #[error("the page at {:#x} is pinned", .0.start())]
    Pinned(PageRange),
    /// The platform refuses to make the pages private.
    #[error("the platform refuses")]
    Rejected,
    /// The guest still holds some of the pages. Try again when it has released them.
    #[error("the guest has not released the pages")]
    ReleasePending,
    /// A listener could not release the pages, so they did not become private again.
    #[error("a listener did not release the pages")]
    NotReleased,
}

impl From<Errno> for NotChanged {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Pages for which a step failed. A guest chooses how many there are, so only the
/// first is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// The number of bytes.
    pub bytes: u64,
    /// The first pages, and the reason.
    pub first: Option<(PageRange, NotChanged)>,
}

impl Failures {
    /// Whether there were no failures.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn add(&mut self, range: PageRange, why: impl Into<NotChanged>) {
        self.bytes = self.bytes.saturating_add(range.size());
        self.first.get_or_insert((range, why.into()));
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            Some((range, why)) => write!(f, "{:#x} bytes, first {range}: {why}", self.bytes),
            None => f.pad("nothing"),
        }
    }
}

/// The result of a conversion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it lists the stale bytes that were not discarded"]
#[non_exhaustive]
pub struct Converted {
    /// The number of converted bytes. It is 0 if all pages already had the requested
    /// state because another vCPU was faster; the guest retries its access.
    pub bytes: u64,
    /// Stale bytes that the kernel did not discard. The conversion is valid, but the
    /// host has less free memory, and the bytes may reappear if the pages change
    /// back.
    pub not_discarded: Failures,
    /// The first memory that could not be mapped in advance, if that was asked for
    /// ([`Engine::convert_and_pre_fault`](super::Engine::convert_and_pre_fault)). The
    /// guest faults on it.
    pub not_pre_faulted: Option<PreFaultError>,
}

/// The result of a revocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it has the number of bytes that the guest has lost"]
#[non_exhaustive]
pub struct Revoked {
    /// The number of accepted bytes that the guest has lost.
    pub bytes: u64,
    /// Pages that did not become shared. They are no longer accepted.
    pub not_shared: Failures,
}

/// The reason why a conversion failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The request is invalid. Nothing has changed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The request was refused. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The VM has no private pages. Nothing has changed.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A step failed. The earlier steps were undone, except those in
    /// [`ConversionFailure::not_undone`]. [`Engine::restore`](super::Engine::restore)
    /// undoes none.
    #[error(transparent)]
    Failed(Box<ConversionFailure>),
    /// An earlier call panicked while it had the lock of the
    /// [`Converter`](super::Converter): a listener, the VM, the record of the pages, or
    /// the closure of [`with_pages`](super::Converter::with_pages).
    ///
    /// After a panic of a listener, pages and record agree. After a panic of the VM or of
    /// [`GuestPages::record`](super::GuestPages::record), it is unknown which pages are
    /// private.
    #[error("an earlier conversion was cut short by a panic")]
    CutShort,
}

impl ConvertError {
    /// The return value of the guest's hypercall: a negated error number of
    /// include/uapi/linux/kvm_para.h.
    pub fn hypercall_return(&self) -> i64 {
        const KVM_EINVAL: i64 = 22;
        const KVM_EOPNOTSUPP: i64 = 95;
        match self {
            Self::Unsupported(_) => -KVM_EOPNOTSUPP,
            Self::Request(_) | Self::Refused(_) | Self::Failed(_) | Self::CutShort => -KVM_EINVAL,
        }
    }
}

/// The failed step of a conversion, and the result of the rollback.
#[derive(Debug, thiserror::Error)]
#[error("conversion of {range}: {cause}{}", rest(.not_undone))]
#[non_exhaustive]
pub struct ConversionFailure {
    /// The whole requested range.
    pub range: PageRange,
    /// The step.
    pub cause: FailedStep,
    /// The earlier steps that could not be undone. If it is empty, nothing has changed
    /// (not after [`Engine::restore`](super::Engine::restore)).
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
    /// The state of these pages did not change.
    #[error("state of {range}: {why}")]
    State {
        /// The pages.
        range: PageRange,
        /// The reason.
        why: NotChanged,
    },
    /// A listener refused.
    #[error("listener '{name}': {source}")]
    Listener {
        /// The listener's name.
        name: String,
        /// The listener's error.
        #[source]
        source: ConversionListenerError,
    },
}

/// The steps that a failed conversion could not undo.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NotConvertedBack {
    /// Pages that did not change back. They are recorded in their new state.
    pub pages: Failures,
    /// Listeners that could not roll back, by name, each with its first error.
    pub listeners: Vec<(String, ConversionListenerError)>,
}

impl NotConvertedBack {
    /// Whether everything was undone.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.listeners.is_empty()
    }

    pub(super) fn add_listener(&mut self, name: &str, error: ConversionListenerError) {
        if !self.listeners.iter().any(|(known, _)| known == name) {
            self.listeners.push((name.to_string(), error));
        }
    }
}

impl fmt::Display for NotConvertedBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state of {}", self.pages)?;
        for (name, error) in &self.listeners {
            write!(f, "; listener '{name}': {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(first: u64) -> PageRange {
        PageRange::new(first, 0x1000).unwrap()
    }

    #[test]
    fn of_failures_the_first_is_kept_and_all_are_counted() {
        let mut failures = Failures::default();
        assert!(failures.is_empty());
        assert_eq!(failures.to_string(), "nothing");
        failures.add(pages(0x2000), Errno::EIO);
        failures.add(pages(0x8000), Errno::ENOMEM);
        assert!(!failures.is_empty());
        let text = "0x2000 bytes, first 0x2000..0x3000: EIO";
        assert_eq!(failures.to_string(), text);
    }

    #[test]
    fn a_failure_lists_what_was_not_undone_and_each_listener_once() {
        let mut not_undone = NotConvertedBack::default();
        let failure = |not_undone| ConversionFailure {
            range: pages(0x2000),
            cause: FailedStep::State {
                range: pages(0x2000),
                why: Errno::EIO.into(),
            },
            not_undone,
        };
        assert!(not_undone.is_empty());
        let text = "conversion of 0x2000..0x3000: state of 0x2000..0x3000: EIO";
        assert_eq!(failure(NotConvertedBack::default()).to_string(), text);

        not_undone.add_listener("one", "first".into());
        not_undone.add_listener("one", "second".into());
        not_undone.add_listener("two", "third".into());
        assert!(!not_undone.is_empty());
        assert_eq!(
            failure(not_undone).to_string(),
            format!(
                "{text}; not undone: state of nothing; listener 'one': first; listener 'two': third"
            )
        );
        let mut not_undone = NotConvertedBack::default();
        not_undone.pages.add(pages(0), NotChanged::NotReleased);
        assert!(!not_undone.is_empty());
    }
}
