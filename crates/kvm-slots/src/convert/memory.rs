// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's convertible memory, for VMMs without a memory model.

use super::pages::{GuestPages, parts};
use super::sides::{ConvertibleRange, Stretch};
use guest_ranges::PageRange;
use guest_ranges::PageSet;
use guest_ranges::PageState;

/// Memory with a private side, and which of its pages are private or accepted.
///
/// Memory without a private side need not be named: it is the same as none.
///
/// # How large the state gets
///
/// What is accepted takes at most 36 MiB for each TiB of private MMIO that there
/// is. What is private takes as much for each TiB of addresses at which there
/// ever was memory that the guest made private and not shared again. A guest
/// that moves memory about can make that any address, so there is a
/// [limit](Self::set_state_limit).
#[derive(Debug)]
pub struct ConvertibleMemory {
    /// By address; no two overlap.
    ranges: Vec<ConvertibleRange>,
    private: PageSet,
    accepted: PageSet,
    /// The most bytes that `private` may come to take.
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

/// Why a guest's memory cannot become another. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Two of the ranges have these pages.
    #[error("two ranges have {pages}")]
    Overlap {
        /// The pages.
        pages: PageRange,
    },
    /// The guest has accepted these pages of private MMIO, and the range they
    /// are in is not among the new ones just as it was: only the guest or a
    /// revocation ends that.
    #[error("{pages} were accepted by the guest and cannot change")]
    Accepted {
        /// The first of them.
        pages: PageRange,
    },
}

impl ConvertibleMemory {
    /// The bytes that the state of private pages may take if no one sets
    /// another limit: as many as pages in 7 TiB of addresses can need.
    pub const DEFAULT_STATE_LIMIT: usize = 256 << 20;

    /// No memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The guest's memory is all of these ranges, in any order, and no other.
    ///
    /// Pages that were private stay so, whatever is there now, as they do for
    /// KVM. Where they are to follow memory that moves,
    /// [`record`](GuestPages::record) it, and pass it to [`Change`](crate::Change).
    ///
    /// Call it between planning the memslots and applying the plan: what the
    /// guest has accepted refuses the change here. If then KVM refuses it, set
    /// the old ranges again; those are never refused.
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
            if let (false, Some(pages)) = (stays, parts(&self.accepted, old.stretch.range).next()) {
                return Err(MemoryError::Accepted { pages });
            }
        }
        self.ranges = ranges;
        Ok(())
    }

    /// Sets how many bytes of the host's memory the state of private pages may
    /// come to take, if the guest makes some of them shared: 576 for each 16 MiB
    /// that they reach into. A request that would outgrow it is refused before
    /// anything is done ([`Refusal::NoRoom`](crate::convert::Refusal::NoRoom)). KVM's own
    /// state grows alike and has no limit.
    ///
    /// Making pages shared is never refused for it. A VMM that has taken memory
    /// away makes room, here and in KVM, by a request to make its pages shared.
    pub fn set_state_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// The limit, in bytes.
    pub fn state_limit(&self) -> usize {
        self.limit
    }

    /// The bytes that the state of the pages takes on the heap, at most.
    pub fn heap_bytes(&self) -> usize {
        self.private.heap_bytes() + self.accepted.heap_bytes()
    }
}

// SAFETY: all stretches are of `self.ranges`, which hold the memory and files.
unsafe impl GuestPages for ConvertibleMemory {
    fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_ {
        let below = |memory: &ConvertibleRange| memory.stretch.range.end() <= range.start();
        let from = self.ranges.partition_point(below);
        let touched = self.ranges[from..].iter();
        touched.map_while(move |memory| memory.stretch.within(range))
    }

    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        parts(&self.private, range)
    }

    fn accepted(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        parts(&self.accepted, range)
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
