// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Limits the pages of a guest to whole pages of the host.

use guest_ranges::{PageRange, PageSize, PageState};

use super::pages::GuestPages;
use super::sides::Stretch;

/// The pages of a guest, as a host with pages of some size converts them.
///
/// A host page that is not entirely in one stretch of memory has no memslot, and its
/// bytes cannot be discarded: it counts as memory without a private side. With pages of
/// 4 KiB, these are all pages.
pub(super) struct HostPages<'a, P> {
    pages: &'a mut P,
    size: PageSize,
}

impl<'a, P: GuestPages> HostPages<'a, P> {
    pub(super) fn new(pages: &'a mut P, size: PageSize) -> Self {
        Self { pages, size }
    }
}

// SAFETY: all stretches are parts of stretches of `pages`, which holds their memory.
unsafe impl<P: GuestPages> GuestPages for HostPages<'_, P> {
    fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_ {
        let size = self.size;
        let memory = self.pages.memory(range);
        memory.filter_map(move |stretch| stretch.within(stretch.range.whole(size)?))
    }

    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        self.pages.private(range)
    }

    fn accepted(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        self.pages.accepted(range)
    }

    fn has_room(&self, range: PageRange) -> bool {
        self.pages.has_room(range)
    }

    fn record(&mut self, range: PageRange, state: PageState) {
        self.pages.record(range, state);
    }

    fn accept(&mut self, range: PageRange) {
        self.pages.accept(range);
    }

    fn revoke(&mut self, range: PageRange) {
        self.pages.revoke(range);
    }
}
