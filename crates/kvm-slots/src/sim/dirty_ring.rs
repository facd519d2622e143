// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty ring of a simulated guest's only vCPU.
//!
//! Compare virt/kvm/dirty_ring.c and `kvm_vm_ioctl_enable_dirty_log_ring`
//! (virt/kvm/kvm_main.c, Linux 6.18).

use super::kernel::MAX_RING_BYTES;
use crate::dirty::vm::DirtyEntry;
use crate::vm::errno::Errno;

/// The size of an entry in bytes.
const ENTRY: u32 = 16;
/// Entries that are kept free for one more run of a vCPU
/// (`KVM_DIRTY_RING_RSVD_ENTRIES`). Processors that log in batches need more.
const RESERVED: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    Free,
    Dirty,
    Harvested,
}

/// A ring. Its entries are those from `reset` to `pushed`, which only increase.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) entries: Vec<(Flag, DirtyEntry)>,
    pushed: usize,
    reset: usize,
    /// The number of next entries to skip.
    pub(super) skip: usize,
}

impl Ring {
    /// A ring of `bytes` bytes, if the kernel supports that size.
    pub(super) fn new(bytes: u32, page_size: u64) -> Result<Self, Errno> {
        let too_small = bytes < RESERVED * ENTRY || u64::from(bytes) < page_size;
        if !bytes.is_power_of_two() || too_small {
            return Err(Errno::EINVAL);
        }
        if bytes > MAX_RING_BYTES {
            return Err(Errno::E2BIG);
        }
        let none = (Flag::Free, DirtyEntry { slot: 0, page: 0 });
        Ok(Self {
            entries: vec![none; (bytes / ENTRY) as usize],
            pushed: 0,
            reset: 0,
            skip: 0,
        })
    }

    /// Whether a vCPU exits instead of running.
    pub(super) fn is_full(&self) -> bool {
        self.pushed - self.reset >= self.entries.len() - RESERVED as usize
    }

    pub(super) fn push(&mut self, entry: DirtyEntry) {
        let at = self.pushed % self.entries.len();
        self.pushed += 1;
        match self.skip {
            0 => self.entries[at] = (Flag::Dirty, entry),
            _ => self.skip -= 1,
        }
    }

    /// Frees the entries before the first one that is not harvested.
    pub(super) fn reset(&mut self) -> Vec<DirtyEntry> {
        let mut freed = Vec::new();
        loop {
            let at = self.reset % self.entries.len();
            let (flag, entry) = &mut self.entries[at];
            if *flag != Flag::Harvested {
                return freed;
            }
            *flag = Flag::Free;
            freed.push(*entry);
            self.reset += 1;
        }
    }
}
