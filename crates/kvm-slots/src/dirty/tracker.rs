// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracks the pages of host memory that the guest and the VMM write.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_ranges::{AddrRange, PageSize, RangeSet};

use super::pages::DirtyPages;
use super::vm::DirtyEntry;
use crate::slots::slot::{Slot, SlotId};
use crate::slots::table::SlotTable;

/// Tracks written pages of host memory for several clients, each of which takes them
/// at its own pace. Clones are the same tracker.
///
/// Pages are identified by their host address. A written page stays written when
/// its memslot moves, is split, or is deleted. Memory at two guest-physical
/// addresses is reported once.
///
/// Memory is tracked from the first log of a slot on it, or from
/// [`track`](Self::track), until [`forget`](Self::forget).
#[derive(Clone, Debug)]
pub struct DirtyTracker {
    page_size: PageSize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    memory: RangeSet,
    clients: BTreeMap<u64, DirtyPages>,
    next_client: u64,
}

/// A consumer of dirty pages. Each page is reported once per client. Drop the client
/// to stop.
#[derive(Debug)]
pub struct DirtyClient {
    number: u64,
    tracker: DirtyTracker,
}

impl DirtyTracker {
    /// A tracker of no memory. `page_size` is the host's:
    /// [`Capabilities::page_size`](crate::Capabilities::page_size).
    pub fn new(page_size: PageSize) -> Self {
        Self {
            page_size,
            state: Arc::default(),
        }
    }

    /// Adds a client. Earlier writes are not reported to it.
    pub fn client(&self) -> DirtyClient {
        let mut state = self.state();
        let number = state.next_client;
        state.next_client += 1;
        state
            .clients
            .insert(number, DirtyPages::new(self.page_size));
        DirtyClient {
            number,
            tracker: self.clone(),
        }
    }

    /// Tracks the memory of a slot. This marks no page as dirty. Slots without a host
    /// address cannot be logged and are ignored.
    pub fn track(&self, slot: &Slot) {
        if let Some(memory) = host_range(slot) {
            self.state().memory.insert(memory);
        }
    }

    /// Marks `size` bytes at the host address `host` as written by the VMM or one of
    /// its devices. Call it after the write, from any thread.
    ///
    /// Returns whether all these bytes are tracked; other bytes are ignored.
    pub fn mark(&self, host: u64, size: u64) -> bool {
        let Some(bytes) = bytes(host, size) else {
            return true;
        };
        let State {
            memory, clients, ..
        } = &mut *self.state();
        let mut tracked = 0;
        for part in memory.within(bytes) {
            tracked += part.size();
            let page = self.page_size;
            let pages = page.number(part.start())..page.number(part.last()) + 1;
            for dirty in clients.values_mut() {
                dirty.insert(pages.clone());
            }
        }
        tracked == u128::from(size)
    }

    /// Same as [`mark`](Self::mark), by the guest-physical address `gpa`. Bytes in no
    /// slot, or in a slot without a host address, are not tracked.
    pub fn mark_guest(&self, table: &SlotTable, gpa: u64, size: u64) -> bool {
        let Some(last) = size.checked_sub(1).map(|more| gpa.saturating_add(more)) else {
            return true;
        };
        let mut tracked = 0;
        for slot in table.intersecting(gpa, last) {
            let (from, to) = (gpa.max(slot.gpa()), last.min(slot.last()));
            if let Some(host) = slot.backing().host() {
                let all = self.mark(host.address() + (from - slot.gpa()), to - from + 1);
                tracked += if all { to - from + 1 } else { 0 };
            }
        }
        tracked == size
    }

    /// Marks the pages of a bitmap, whose first bit is the page at the host address
    /// `host`, as written by the VMM. Pages that are not tracked are ignored, and so are
    /// bits beyond the address space. Pages have the size of the host's.
    ///
    /// The crate `vm-memory` keeps such a bitmap for each region of a
    /// `GuestMemoryMmap<AtomicBitmap>`, in which the VMM's own writes are. Call this
    /// before a client takes pages:
    ///
    /// ```
    /// # #[cfg(feature = "vm-memory")] {
    /// use kvm_slots::dirty::DirtyTracker;
    /// use vm_memory::bitmap::AtomicBitmap;
    /// use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
    ///
    /// fn mark_writes(tracker: &DirtyTracker, guest: &GuestMemoryMmap<AtomicBitmap>) {
    ///     for region in guest.iter() {
    ///         let bitmap = region.get_mmap().bitmap().get_and_reset();
    ///         tracker.mark_bitmap(region.as_ptr() as u64, &bitmap);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn mark_bitmap(&self, host: u64, bitmap: &[u64]) {
        let first = self.page_size.number(host);
        let mut written = DirtyPages::new(self.page_size);
        let pages = u64::try_from(bitmap.len()).unwrap_or(u64::MAX);
        written.insert_bitmap(first, bitmap, pages.saturating_mul(u64::BITS.into()));
        for run in written.runs() {
            let size = u64::try_from(run.size()).unwrap_or(u64::MAX);
            self.mark(run.start(), size);
        }
    }

    /// Stops tracking memory and drops its dirty pages. Call it before the memory is
    /// unmapped.
    pub fn forget(&self, host: u64, size: u64) {
        let Some(bytes) = bytes(host, size) else {
            return;
        };
        let State {
            memory, clients, ..
        } = &mut *self.state();
        for part in memory.within(bytes) {
            let end = part.last().saturating_add(1);
            let page = self.page_size;
            let pages = part.start().div_ceil(page.bytes())..page.number(end);
            for dirty in clients.values_mut() {
                dirty.take(pages.clone());
            }
        }
        memory.remove(bytes);
    }

    /// Adds a slot's log, with a bit for each page.
    pub(crate) fn add_log(&self, slot: &Slot, log: &[u64]) {
        let Some(memory) = host_range(slot) else {
            return;
        };
        let first = self.page_size.number(memory.start());
        let state = &mut *self.state();
        state.memory.insert(memory);
        for dirty in state.clients.values_mut() {
            dirty.insert_bitmap(first, log, self.page_size.number(slot.size()));
        }
    }

    /// Adds an entry of a ring. Returns false if it names no memory.
    pub(crate) fn add_entry(&self, table: &SlotTable, entry: &DirtyEntry) -> bool {
        let id = SlotId::try_from(entry.slot);
        let Some(slot) = id.ok().and_then(|id| table.get(id)) else {
            return false;
        };
        let in_slot = entry.page.checked_mul(self.page_size.bytes());
        let at = in_slot.filter(|at| *at < slot.size());
        let Some((at, memory)) = at.zip(host_range(slot)) else {
            return false;
        };
        // The slot may have stopped logging since.
        self.track(slot);
        self.mark(memory.start() + at, self.page_size.bytes())
    }

    /// The page size of the host.
    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Each change is one call that cannot panic halfway.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirtyClient {
    /// The client's tracker.
    pub fn tracker(&self) -> &DirtyTracker {
        &self.tracker
    }

    /// Takes the pages in `size` bytes at the host address `host` that were written
    /// since they were last taken.
    ///
    /// Read their bytes after this call: later writes are reported again. The range
    /// is rounded outwards to whole pages.
    pub fn take(&self, host: u64, size: u64) -> DirtyPages {
        let page = self.tracker.page_size;
        match bytes(host, size) {
            Some(bytes) => {
                self.take_pages(page.number(bytes.start())..page.number(bytes.last()) + 1)
            }
            None => DirtyPages::new(page),
        }
    }

    /// Same as [`take`](Self::take), for the memory of a slot. A slot without a host
    /// address has no dirty pages.
    pub fn take_slot(&self, slot: &Slot) -> DirtyPages {
        match host_range(slot) {
            Some(memory) => self.take(memory.start(), slot.size()),
            None => DirtyPages::new(self.tracker.page_size),
        }
    }

    /// Same as [`take`](Self::take), for all memory, including memory that is no longer
    /// in a slot.
    pub fn take_all(&self) -> DirtyPages {
        self.take_pages(0..self.tracker.page_size.number(u64::MAX) + 1)
    }

    /// Marks taken pages as dirty again, for example after a failed transfer.
    pub fn give_back(&self, pages: &DirtyPages) {
        if let Some(dirty) = self.tracker.state().clients.get_mut(&self.number) {
            dirty.append(pages);
        }
    }

    fn take_pages(&self, pages: Range<u64>) -> DirtyPages {
        let mut state = self.tracker.state();
        let dirty = state.clients.get_mut(&self.number);
        dirty.map_or_else(
            || DirtyPages::new(self.tracker.page_size),
            |dirty| dirty.take(pages),
        )
    }
}

impl Drop for DirtyClient {
    fn drop(&mut self) {
        self.tracker.state().clients.remove(&self.number);
    }
}

impl DirtyPages {
    /// The guest-physical addresses of these pages in `slot`, as first address and
    /// number of bytes.
    pub fn in_slot<'a>(&'a self, slot: &Slot) -> impl Iterator<Item = (u64, u64)> + 'a {
        let gpa = slot.gpa();
        let memory = host_range(slot).into_iter();
        memory.flat_map(move |memory| {
            let shown = self.within(memory);
            let size = |run: AddrRange| run.last() - run.start() + 1;
            shown.map(move |run| (gpa + (run.start() - memory.start()), size(run)))
        })
    }
}

/// The host memory of a slot, if it has a host address.
fn host_range(slot: &Slot) -> Option<AddrRange> {
    // Only these can be logged: with a guest_memfd, the guest does not write to
    // the host address.
    let host = slot.backing().host().filter(|_| slot.is_mutable())?;
    Some(host.range())
}

/// The addresses as a range, cut at 2^64; `None` if it is empty.
fn bytes(host: u64, size: u64) -> Option<AddrRange> {
    AddrRange::from_bounds(host, host.saturating_add(size.checked_sub(1)?))
}
