// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What was written to host memory, by the guest and by the VMM.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_ranges::{AddrRange, RangeSet};

use super::pages::DirtyPages;
use super::vm::DirtyEntry;
use crate::slot::{Slot, SlotId};
use crate::table::SlotTable;

/// Collects which pages of host memory were written, for several clients that
/// each take them at their own pace. Clones are the same tracker.
///
/// Pages are known by their host address. What was written stays written when
/// its memslot moves, is split, or goes; and memory that shows at two
/// guest-physical addresses is reported once.
///
/// Memory is tracked from the time on that a slot on it logs, or that
/// [`track`](Self::track) names it, until [`forget`](Self::forget).
#[derive(Clone, Debug)]
pub struct DirtyTracker {
    page_size: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    memory: RangeSet,
    clients: BTreeMap<u64, DirtyPages>,
    next_client: u64,
}

/// A consumer of dirty pages. Each page is reported once per client. Dropping the
/// client ends that.
#[derive(Debug)]
pub struct DirtyClient {
    number: u64,
    tracker: DirtyTracker,
}

impl DirtyTracker {
    /// Nothing is tracked yet. `page_size` is the host's, in bytes:
    /// [`Capabilities::page_size`](crate::Capabilities::page_size).
    pub fn new(page_size: u64) -> Self {
        Self {
            page_size: page_size.max(1),
            state: Arc::default(),
        }
    }

    /// A client, for whom nothing was written before now.
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

    /// Tracks the memory of a slot, and no more than that: nothing of it is
    /// dirty for it. Not for slots without a host address, whose pages no one
    /// can log.
    pub fn track(&self, slot: &Slot) {
        if let Some(memory) = host_range(slot) {
            self.state().memory.insert(memory);
        }
    }

    /// The VMM, or a device of it, has written `size` bytes at the host address
    /// `host`. Call it after the write. May be called by any thread.
    ///
    /// Returns whether all these bytes are tracked; those that are not are left
    /// out.
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
            let pages = part.start() / self.page_size..part.last() / self.page_size + 1;
            for dirty in clients.values_mut() {
                dirty.insert(pages.clone());
            }
        }
        tracked == u128::from(size)
    }

    /// As [`mark`](Self::mark), by the guest-physical address `gpa`. Bytes in
    /// no slot, or in one without a host address, are not tracked.
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

    /// The memory is no longer the guest's: what was written to it is of no
    /// interest to anyone any more. For memory that is about to be unmapped.
    pub fn forget(&self, host: u64, size: u64) {
        let Some(bytes) = bytes(host, size) else {
            return;
        };
        let State {
            memory, clients, ..
        } = &mut *self.state();
        for part in memory.within(bytes) {
            let end = part.last().saturating_add(1);
            let pages = part.start().div_ceil(self.page_size)..end / self.page_size;
            for dirty in clients.values_mut() {
                dirty.take(pages.clone());
            }
        }
        memory.remove(bytes);
    }

    /// Adds a slot's log, a bit for each of its pages.
    pub(crate) fn add_log(&self, slot: &Slot, log: &[u64]) {
        let Some(memory) = host_range(slot) else {
            return;
        };
        let first = memory.start() / self.page_size;
        let state = &mut *self.state();
        state.memory.insert(memory);
        for dirty in state.clients.values_mut() {
            dirty.insert_bitmap(first, log, slot.size() / self.page_size);
        }
    }

    /// Adds an entry of a ring. False if it names no memory.
    pub(crate) fn add_entry(&self, table: &SlotTable, entry: &DirtyEntry) -> bool {
        let id = SlotId::try_from(entry.slot);
        let Some(slot) = id.ok().and_then(|id| table.get(id)) else {
            return false;
        };
        let in_slot = entry.page.checked_mul(self.page_size);
        let at = in_slot.filter(|at| *at < slot.size());
        let Some((at, memory)) = at.zip(host_range(slot)) else {
            return false;
        };
        // Also of a slot that has stopped to log since.
        self.track(slot);
        self.mark(memory.start() + at, self.page_size)
    }

    /// The size of a page in bytes.
    pub(crate) fn page_size(&self) -> u64 {
        self.page_size
    }

    /// No change is more than one call that cannot panic half way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirtyClient {
    /// The tracker that it is a client of.
    pub fn tracker(&self) -> &DirtyTracker {
        &self.tracker
    }

    /// Takes the pages of `size` bytes from the host address `host` on that
    /// were written since they were last taken.
    ///
    /// Read their bytes after this: what is written meanwhile is reported
    /// again. A page that lies in the range in part counts as in it.
    pub fn take(&self, host: u64, size: u64) -> DirtyPages {
        let page = self.tracker.page_size;
        match bytes(host, size) {
            Some(bytes) => self.take_pages(bytes.start() / page..bytes.last() / page + 1),
            None => DirtyPages::new(page),
        }
    }

    /// As [`take`](Self::take), for the memory of a slot. There is none for a
    /// slot without a host address.
    pub fn take_slot(&self, slot: &Slot) -> DirtyPages {
        match host_range(slot) {
            Some(memory) => self.take(memory.start(), slot.size()),
            None => DirtyPages::new(self.tracker.page_size),
        }
    }

    /// As [`take`](Self::take), for all memory, also such that is in no slot
    /// any more.
    pub fn take_all(&self) -> DirtyPages {
        self.take_pages(0..u64::MAX / self.tracker.page_size + 1)
    }

    /// Gives pages back that were taken, as after a transfer that failed.
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
    /// The guest-physical addresses at which `slot` shows these pages, as first
    /// address and number of bytes; none that it does not show.
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
    // Only these can be logged: beside a guest_memfd the host address is not
    // where the guest writes.
    let host = slot.backing().host().filter(|_| slot.is_mutable())?;
    Some(host.range())
}

/// The addresses, as far as there are any; `None` if there is none.
fn bytes(host: u64, size: u64) -> Option<AddrRange> {
    AddrRange::from_bounds(host, host.saturating_add(size.checked_sub(1)?))
}
