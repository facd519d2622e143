// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the engine asks of the owner of a guest's memory.

use super::sides::Stretch;
use guest_ranges::{PageRange, PageSet, PageState};

/// A guest's memory: what has a private side, and which pages are private now.
///
/// It is the one place where that is written down.
/// [`ConvertibleMemory`](crate::convert::ConvertibleMemory) is for VMMs that have no
/// other; `ModelPages` (feature `memory-model`) is the state of a memory model.
///
/// No answer may change between two calls that take `&self`.
///
/// # Safety
/// Host addresses and descriptors of the stretches that [`memory`](Self::memory)
/// yields must be those of [`HostMemory`](guest_ranges::HostMemory) and
/// [`FileSlice`](guest_ranges::FileSlice) values that live as long as the
/// implementor: an engine discards bytes there.
pub unsafe trait GuestPages {
    /// The memory with a private side that `range` touches, by address and
    /// without overlaps. What is left out cannot be private.
    fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_;

    /// The pages of `range` that are private, by address and without overlaps.
    /// They need not be joined.
    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_;

    /// The pages of `range` that the guest has accepted: of private MMIO, and
    /// not given back since.
    fn accepted(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_;

    /// Whether there is room to record that these pages are private. A plan asks
    /// for all that a request is about, before anything is done.
    ///
    /// A guest chooses which pages are private, and where memory is that moves.
    /// An owner that keeps that in bounds says no here; this says always yes.
    fn has_room(&self, range: PageRange) -> bool {
        let _ = range;
        true
    }

    /// From here on these pages are in this state. A plan has found that they
    /// can be, and that there is room. What becomes shared is not accepted any more.
    fn record(&mut self, range: PageRange, state: PageState);

    /// The guest has accepted these pages. They are private MMIO, and private.
    fn accept(&mut self, range: PageRange);

    /// The host takes back what was accepted of `range`. The pages stay
    /// private until [`record`](Self::record) says otherwise.
    fn revoke(&mut self, range: PageRange);
}

/// The parts of a range that are in a set, as whole pages.
pub(super) fn parts(set: &PageSet, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
    let parts = set.within(range.into());
    // Parts of a range that ends below 2^64 do, too.
    parts.filter_map(|part| PageRange::between(part.start(), part.last() + 1))
}
