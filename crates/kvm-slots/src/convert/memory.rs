// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a guest's pages, for VMMs without a memory model.

use super::pages::{GuestPages, pages_within};
use super::sides::{ConvertibleRange, Stretch};
use guest_ranges::PageRange;
use guest_ranges::PageSet;
use guest_ranges::PageState;
#[cfg(feature = "serde")]
use guest_ranges::gaps;

#[cfg(feature = "serde")]
use super::sides::Sides;
#[cfg(feature = "serde")]
use crate::state::{PagesError, PagesState};

/// Memory with a private side, and the pages that are private or accepted.
///
/// Omit memory without a private side: it is the same as none.
///
/// # The size of the state
///
/// Accepted pages need at most 36 MiB for each TiB of private MMIO. Private pages
/// need as much for each TiB of addresses where the guest ever had private pages
/// that it did not make shared again. A guest that moves memory can use any
/// address, so there is a [limit](Self::set_state_limit).
#[derive(Debug)]
pub struct ConvertibleMemory {
    /// By address; no two overlap.
    ranges: Vec<ConvertibleRange>,
    private: PageSet,
    accepted: PageSet,
    /// The maximum size of `private` in bytes.
    limit: usize,
}

impl Default for ConvertibleMemory {
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            private: PageSet::default(),
            accepted: PageSet::default(),
            limit: Self::DEFAULT_STATE_LIMIT,
        }
    }
}

/// The reason why a guest's memory cannot change. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Two ranges overlap in these pages.
    #[error("two ranges have {pages}")]
    Overlap {
        /// The pages.
        pages: PageRange,
    },
    /// The guest has accepted these pages of private MMIO, and their range would
    /// change. The guest must make them shared first, or the host revoke them.
    #[error("{pages} were accepted by the guest and cannot change")]
    Accepted {
        /// The first of them.
        pages: PageRange,
    },
}

impl ConvertibleMemory {
    /// The default limit of the state of private pages, in bytes: enough for any
    /// pages in 7 TiB of addresses.
    pub const DEFAULT_STATE_LIMIT: usize = 256 << 20;

    /// No memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all ranges, in any order.
    ///
    /// Private pages stay private, as they do for KVM, even if their memory changes.
    /// If they should follow memory that moves, [`record`](GuestPages::record) that,
    /// and pass them to [`Change`](crate::Change).
    ///
    /// Call this between planning the memslots and applying the plan, because
    /// accepted pages refuse the change here. If KVM then refuses the plan, set
    /// the old ranges again; that never fails.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_ranges(
        &mut self,
        ranges: impl IntoIterator<Item = ConvertibleRange>,
    ) -> Result<(), MemoryError> {
        let mut ranges: Vec<ConvertibleRange> = ranges.into_iter().collect();
        ranges.sort_by_key(|range| range.stretch.range);
        for pair in ranges.windows(2) {
            let (one, other) = (pair[0].stretch.range, pair[1].stretch.range);
            if let Some(pages) = one.intersect(other) {
                return Err(MemoryError::Overlap { pages });
            }
        }
        for old in &self.ranges {
            let stays =
                |new: &&ConvertibleRange| new.stretch == old.stretch && new.backing == old.backing;
            let before = ranges.partition_point(|r| r.stretch.range < old.stretch.range);
            let stays = ranges.get(before).filter(stays).is_some();
            if let (false, Some(pages)) = (
                stays,
                pages_within(&self.accepted, old.stretch.range).next(),
            ) {
                return Err(MemoryError::Accepted { pages });
            }
        }
        self.ranges = ranges;
        Ok(())
    }

    /// Sets the maximum size of the state of private pages, in bytes of host memory:
    /// 576 for each 16 MiB of addresses with private pages, whichever of these pages
    /// the guest later makes shared. A request that could exceed the limit is refused
    /// before any change ([`Refusal::NoRoom`](crate::convert::Refusal::NoRoom)). KVM's
    /// own state grows in the same way and has no limit.
    ///
    /// The limit never refuses a request to make pages shared: each 16 MiB with
    /// private pages count as a bitmap from the start, even where the state is one
    /// range now. A VMM that has removed memory frees state, here and in KVM, by
    /// making its pages shared.
    pub fn set_state_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// The limit, in bytes.
    pub fn state_limit(&self) -> usize {
        self.limit
    }

    /// Which pages are private and accepted, as data.
    #[cfg(feature = "serde")]
    pub fn state(&self) -> PagesState {
        PagesState::new(self.private.clone(), self.accepted.clone())
    }

    /// Replaces which pages are private and accepted, as they were saved. Set the ranges
    /// first, and have [`Engine::restore`](super::Engine::restore) set it in KVM afterwards.
    ///
    /// Private pages can be anywhere, because their memory may have moved.
    ///
    /// # Errors
    /// [`PagesError`].
    #[cfg(feature = "serde")]
    pub fn restore(&mut self, state: &PagesState) -> Result<(), PagesError> {
        for pages in state.accepted().iter() {
            let mmio = self
                .ranges
                .iter()
                .filter(|r| r.stretch.sides == Sides::PrivateMmio);
            let mmio = mmio.map(|range| range.stretch.range.into());
            if let Some(pages) = gaps(pages, mmio).next() {
                return Err(PagesError::NotPrivateMmio { pages });
            }
            if let Some(pages) = gaps(pages, state.private().within(pages)).next() {
                return Err(PagesError::NotPrivate { pages });
            }
        }
        let (mut private, limit) = (PageSet::new(), self.limit);
        for pages in state.private().iter() {
            if !private.has_room(pages, limit) {
                return Err(PagesError::NoRoom { limit });
            }
            private.insert(pages);
        }
        (self.private, self.accepted) = (private, state.accepted().clone());
        Ok(())
    }

    /// The maximum number of bytes that the state uses on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.private.heap_bytes() + self.accepted.heap_bytes()
    }
}

// SAFETY: all stretches are from `self.ranges`, which own the memory and files.
unsafe impl GuestPages for ConvertibleMemory {
    fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_ {
        let below = |memory: &ConvertibleRange| memory.stretch.range.end() <= range.start();
        let from = self.ranges.partition_point(below);
        let touched = self.ranges[from..].iter();
        touched.map_while(move |memory| memory.stretch.within(range))
    }

    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        pages_within(&self.private, range)
    }

    fn accepted(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        pages_within(&self.accepted, range)
    }

    fn has_room(&self, range: PageRange) -> bool {
        self.private.has_room(range.into(), self.limit)
    }

    fn record(&mut self, range: PageRange, state: PageState) {
        match state {
            PageState::Private => self.private.insert(range.into()),
            PageState::Shared => {
                self.private.remove(range.into());
                self.accepted.remove(range.into());
            }
        }
    }

    fn accept(&mut self, range: PageRange) {
        self.accepted.insert(range.into());
    }

    fn revoke(&mut self, range: PageRange) {
        self.accepted.remove(range.into());
    }
}
