// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners of conversions, such as a DMA mapper, which maps only shared pages.

use super::sides::Stretch;
use guest_ranges::PageRange;
use guest_ranges::PageState;

/// The error of a listener's `prepare` and `abort`. Downcast it for the typed
/// error.
pub type ConversionListenerError = Box<dyn std::error::Error + Send + Sync>;

/// The pages of a conversion, as listeners see them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Conversion<'a> {
    /// The state that the pages change to. In `prepare`, pages that become private are
    /// still shared, and pages that become shared already are.
    pub to: PageState,
    /// The pages, by address, as the fewest stretches. [`Stretch::host`] is the host
    /// address of shared pages; private MMIO has none, and a DMA mapper skips it.
    pub stretches: &'a [Stretch],
    /// The pages that become shared and have no private side now, by address: a hole,
    /// or other memory that was added where pages are private. A DMA mapper that
    /// knows that memory can now map it.
    pub unbacked: &'a [PageRange],
}

impl<'a> Conversion<'a> {
    /// The change for listeners; `None` if no page changes.
    pub(super) fn of(
        to: PageState,
        stretches: &'a [Stretch],
        unbacked: &'a [PageRange],
    ) -> Option<Self> {
        let any = !stretches.is_empty() || !unbacked.is_empty();
        any.then_some(Self {
            to,
            stretches,
            unbacked,
        })
    }
}

/// Follows conversions.
///
/// All calls happen on the converting thread, one at a time: `abort` in the reverse
/// order in which the listeners were added, all other calls in that order. A call must
/// not start a conversion.
///
/// A large request consists of several changes. All of them are prepared before any
/// is committed.
///
/// # Panics
/// A panic in `prepare` refuses the conversion, one in `abort` counts as an error, and
/// after one in `commit` the others still commit. The panic continues when the
/// conversion is complete or rolled back.
pub trait ConversionListener: Send + Sync {
    /// The listener's name in errors.
    fn name(&self) -> &str;

    /// Whether pages can be converted now. This is called before anything changes, for all
    /// listeners. The default is `Ok`.
    ///
    /// # Errors
    /// Any error refuses the conversion.
    fn ready(&self) -> Result<(), ConversionListenerError> {
        Ok(())
    }

    /// Makes the change, or refuses it.
    ///
    /// To private, this is called before the guest loses the shared pages. When it
    /// returns, no device may access them any more. To shared, it is called after
    /// the guest has them, and devices may access them.
    ///
    /// # Errors
    /// Any error refuses the conversion: listeners that have prepared are
    /// [aborted](Self::abort).
    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError>;

    /// Whether `prepare`, which failed with `error`, has undone everything. If not, this
    /// listener is aborted too, as after a panic. The default is `true`.
    fn rolled_back(&self, _error: &ConversionListenerError) -> bool {
        true
    }

    /// The change is complete. Drop all state that was kept for a rollback.
    fn commit(&self, _change: &Conversion<'_>) {}

    /// Undoes `prepare` for these pages: some or all pages of one change, of which
    /// `prepare` has made a part if it failed or panicked.
    ///
    /// # Errors
    /// The reason why it cannot; the error of the conversion contains it. Pages that were
    /// to become shared then stay shared, because a device may still reach them.
    fn abort(&self, _change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(())
    }

    /// A rollback failed. Pages are now shared, or may be, and this listener could not
    /// follow: it failed to prepare again. It has to find out by itself what it lacks.
    fn must_resync(&self) {}

    /// The kernel found a reference to this shared page, which cannot become private
    /// while there is one ([`Home::FileAttributes`](super::Home::FileAttributes)). Release
    /// it, if it is yours, and return whether it was. The kernel is then asked again.
    fn unpin(&self, _page: PageRange) -> bool {
        false
    }

    /// The guest lost these accepted pages of private MMIO.
    fn revoked(&self, _pages: PageRange) {}
}
