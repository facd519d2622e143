// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty logs of a simulated VM.
//!
//! Compare `mark_page_dirty_in_slot` (virt/kvm/kvm_main.c, Linux 6.18).

use std::collections::BTreeMap;

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
    pub(super) page_size: u64,
    pub(super) manual: Option<ManualProtect>,
    /// The slots that log.
    pub(super) logs: BTreeMap<Key, Log>,
    pub(super) ring: Option<Ring>,
    /// Whether the guest has made its first access, so a vCPU exists.
    pub(super) has_vcpu: bool,
}

/// The log of a slot. With a ring, it records the pages that are already reported.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) pages: u64,
    /// The written pages, by number, that are not protected again.
    pub(super) written: DirtyPages,
}

impl Dirty {
    pub(super) fn new(page_size: u64) -> Self {
        Self {
            page_size,
            manual: None,
            logs: BTreeMap::new(),
            ring: None,
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
        let has_ring = self.ring.is_some();
        let (pages, page_size) = (new.size / self.page_size, self.page_size);
        let log = self.logs.entry(key).or_insert_with(|| {
            let mut written = DirtyPages::new(page_size);
            if initially_set && !has_ring {
                written.insert(0..pages);
            }
            Log { pages, written }
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
        let is_new = !log.written.contains(page * self.page_size);
        log.written.insert(page..page + 1);
        if let Some(ring) = self.ring.as_mut().filter(|_| is_new) {
            let slot = u32::from(key.0) << 16 | u32::from(key.1);
            ring.push(DirtyEntry { slot, page });
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
