// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a guest's pages, as an engine reads and records it.

use super::sides::Stretch;
use guest_ranges::{PageRange, PageSet, PageState};

/// A guest's memory with a private side, and the pages that are private now.
///
/// This is the only record of that state. VMMs without a memory model use
/// [`ConvertibleMemory`](crate::convert::ConvertibleMemory); `ModelPages` (feature
/// `memory-model`) uses the state of a memory model.
///
/// Results must not change between two calls that take `&self`.
///
/// # Safety
/// Host addresses and descriptors of the stretches that [`memory`](Self::memory)
/// yields must be those of [`HostMemory`](guest_ranges::HostMemory) and
/// [`FileSlice`](guest_ranges::FileSlice) values that the implementor holds for as
/// long as it yields the stretches: an engine discards bytes there.
///
/// Code without `unsafe` therefore cannot have an engine discard memory that no one
/// vouched for:
///
/// ```compile_fail,E0200
/// # use kvm_slots::convert::{GuestPages, PageRange, PageState, Sides, Stretch};
/// struct Liar(Box<[u8; 4096]>);
///
/// impl GuestPages for Liar {
///     fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_ {
///         let host = self.0.as_ptr() as u64;
///         let sides = Sides::Split { fd: -1, offset: 0, host };
///         std::iter::once(Stretch { range, sides })
///     }
///     // …
/// #   fn private(&self, _: PageRange) -> impl Iterator<Item = PageRange> + '_ { None.into_iter() }
/// #   fn accepted(&self, _: PageRange) -> impl Iterator<Item = PageRange> + '_ { None.into_iter() }
/// #   fn record(&mut self, _: PageRange, _: PageState) {}
/// #   fn accept(&mut self, _: PageRange) {}
/// #   fn revoke(&mut self, _: PageRange) {}
/// }
/// ```
pub unsafe trait GuestPages {
    /// The memory with a private side in `range`, by address and without overlaps.
    /// Other pages cannot be private.
    fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_;

    /// The pages of `range` that are private, by address and without overlaps.
    /// Adjacent ranges need not be joined.
    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_;

    /// The pages of private MMIO in `range` that the guest has accepted. Since then, it
    /// has not given them back, and the host has not revoked them.
    fn accepted(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_;

    /// Whether there is room to record that these pages are private. It is called for
    /// the whole range of a request, before any change.
    ///
    /// A guest chooses which pages are private, and where its memory is. An
    /// implementation with a limit returns false here; the default is true.
    fn has_room(&self, range: PageRange) -> bool {
        let _ = range;
        true
    }

    /// Records the state of these pages. A plan has checked that they can have it, and
    /// that there is room. Pages that become shared are no longer accepted.
    fn record(&mut self, range: PageRange, state: PageState);

    /// Records that the guest has accepted these pages of private MMIO, which are
    /// private.
    fn accept(&mut self, range: PageRange);

    /// Records that the pages of `range` are no longer accepted. They stay private
    /// until the next [`record`](Self::record).
    fn revoke(&mut self, range: PageRange);
}

/// The parts of a range that are in a set, as whole pages.
pub(super) fn pages_within(
    set: &PageSet,
    range: PageRange,
) -> impl Iterator<Item = PageRange> + '_ {
    let parts = set.within(range.into());
    // The range ends below 2^64, and so do its parts.
    parts.filter_map(|part| PageRange::between(part.start(), part.last() + 1))
}
