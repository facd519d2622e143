// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners of conversions: a mapper for DMA, which maps shared pages only.

use super::sides::Stretch;
use guest_ranges::PageRange;
use guest_ranges::PageState;

/// What a listener's `prepare` and `abort` may fail with. Downcast it for the
/// typed error.
pub type ConversionListenerError = Box<dyn std::error::Error + Send + Sync>;

/// Pages that change hands, as listeners see it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Conversion<'a> {
    /// What the pages become. They are the opposite now.
    pub to: PageState,
    /// The pages, by address, as few stretches as they can be.
    /// [`Stretch::host`] is where the host has the shared ones; private MMIO
    /// has no such place, and a mapper for DMA passes over it.
    pub stretches: &'a [Stretch],
    /// The pages that become shared and have no private side now, by address: a
    /// hole, or other memory that came to where pages were private. A mapper
    /// for DMA that knows that memory maps it from here on.
    pub unbacked: &'a [PageRange],
}

impl<'a> Conversion<'a> {
    /// What listeners are notified of; `None` if no page changes.
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
/// All calls come on the thread that converts, one at a time, in the order in
/// which the listeners were added. A call must not convert in turn.
///
/// A large request can come as several changes of the same pages' neighbours:
/// all of them are prepared before any is committed.
pub trait ConversionListener: Send + Sync {
    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Makes the change, or refuses it and leaves everything as it was.
    ///
    /// To private, it comes before the guest loses the shared pages: when it
    /// returns, no device may reach them any more. To shared, it comes after
    /// the guest has got them: devices may reach them from here on.
    ///
    /// # Errors
    /// Any error refuses the conversion: what was prepared before is
    /// [aborted](Self::abort).
    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError>;

    /// The change is made: what `prepare` kept to go back can go.
    fn commit(&self, _change: &Conversion<'_>) {}

    /// Undoes what `prepare` did for these pages. They are some of those of
    /// one prepared change, or all.
    ///
    /// # Errors
    /// What could not be undone; the error of the conversion carries it.
    fn abort(&self, _change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(())
    }

    /// The guest lost these pages of private MMIO, which it had accepted.
    fn revoked(&self, _pages: PageRange) {}
}
