// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty logs of a simulated VM.
//!
//! Compare `mark_page_dirty_in_slot` (virt/kvm/kvm_main.c, Linux 6.18).

use std::collections::BTreeMap;
use std::ops::Range;

use guest_ranges::{AddrRange, PageSize};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;

use super::dirty_ring::Ring;
use super::memslots::{Key, SimSlot, key};
use crate::dirty::pages::DirtyPages;
use crate::dirty::vm::{DirtyEntry, ManualProtect};
use crate::vm::errno::Errno;

/// The logged writes of the guest.
#[derive(Debug)]
pub(super) struct Dirty {
    /// The kernel's page size in bytes.
    pub(super) page_size: PageSize,
    pub(super) manual: Option<ManualProtect>,
    /// The slots that log.
    pub(super) logs: BTreeMap<Key, Log>,
    pub(super) ring: Option<Ring>,
    /// Whether slots have a log although there is a ring.
    pub(super) log_beside_ring: bool,
    /// Whether the guest has made its first access, so a vCPU exists.
    pub(super) has_vcpu: bool,
}

/// The log of a slot. With a ring, it records the pages that are already reported.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) pages: u64,
    /// The pages, by number, that vCPUs have written and that are not protected again.
    /// Without a ring, these are the pages of the bitmap.
    pub(super) written: DirtyPages,
    /// The bitmap of a slot that has one beside a ring.
    pub(super) beside_ring: DirtyPages,
}

impl Log {
    /// Clears pages of the bitmap beside a ring. Those that were set are protected.
    pub(super) fn clear_beside_ring(&mut self, pages: Range<u64>, page_size: PageSize) {
        for run in self.beside_ring.take(pages).runs() {
            self.written.take(page_numbers(run, page_size));
        }
    }
}

impl Dirty {
    pub(super) fn new(page_size: PageSize) -> Self {
        Self {
            page_size,
            manual: None,
            logs: BTreeMap::new(),
            ring: None,
            log_beside_ring: false,
            has_vcpu: false,
        }
    }

    /// Records a change of a slot.
    pub(super) fn follow(&mut self, slot: u32, old: Option<SimSlot>, new: Option<SimSlot>) {
        let key = key(slot);
        let logging = |slot: &SimSlot| slot.flags & KVM_MEM_LOG_DIRTY_PAGES != 0;
        let Some(new) = new.filter(logging) else {
            self.logs.remove(&key);
            return;
        };
        let moved = old.is_some_and(|old| old.gpa != new.gpa);
        let initially_set = self
            .manual
            .is_some_and(|manual| manual.contains(ManualProtect::INITIALLY_SET));
        let (has_ring, beside_ring) = (self.ring.is_some(), self.log_beside_ring);
        let page_size = self.page_size;
        let pages = page_size.number(new.size);
        let log = self.logs.entry(key).or_insert_with(|| {
            let mut written = DirtyPages::new(page_size);
            let mut bitmap = DirtyPages::new(page_size);
            match initially_set {
                true if !has_ring => written.insert(0..pages),
                true if beside_ring => bitmap.insert(0..pages),
                _ => {}
            }
            Log {
                pages,
                written,
                beside_ring: bitmap,
            }
        });
        // A move keeps the log. It also unmaps the slot's pages, so with a ring all
        // of them are reported again.
        if moved && has_ring {
            log.written = DirtyPages::new(page_size);
        }
    }

    /// Records that the guest has written a page of a slot.
    pub(super) fn mark(&mut self, key: Key, page: u64) {
        let Some(log) = self.logs.get_mut(&key) else {
            return;
        };
        let is_new = !log.written.contains(page * self.page_size.bytes());
        log.written.insert(page..page + 1);
        if let Some(ring) = self.ring.as_mut().filter(|_| is_new) {
            let slot = u32::from(key.0) << 16 | u32::from(key.1);
            ring.push(DirtyEntry { slot, page });
        }
    }

    /// Records that the kernel has written a page of a slot without a vCPU. A ring alone
    /// has no place for that.
    pub(super) fn mark_without_vcpu(&mut self, key: Key, page: u64) {
        let Some(log) = self.logs.get_mut(&key) else {
            return;
        };
        match (&self.ring, self.log_beside_ring) {
            (None, _) => log.written.insert(page..page + 1),
            (Some(_), true) => log.beside_ring.insert(page..page + 1),
            (Some(_), false) => {}
        }
    }

    /// The ioctl that resets the rings.
    pub(super) fn reset_rings(&mut self) -> Result<u32, Errno> {
        let ring = self.ring.as_mut().ok_or(Errno::EINVAL)?;
        let entries = ring.reset();
        for entry in &entries {
            if let Some(log) = self.logs.get_mut(&key(entry.slot)) {
                log.written.take(entry.page..entry.page.saturating_add(1));
            }
        }
        Ok(u32::try_from(entries.len()).unwrap_or(u32::MAX))
    }
}

/// The numbers of the pages in a range of bytes of a slot.
pub(super) fn page_numbers(run: AddrRange, page_size: PageSize) -> Range<u64> {
    page_size.number(run.start())..page_size.number(run.last()) + 1
}
