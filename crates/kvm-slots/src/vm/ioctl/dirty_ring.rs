// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty ring of a real vCPU: memory that the kernel and this process share.
//!
//! The protocol is that of `KVM_CAP_DIRTY_LOG_RING` in
//! Documentation/virt/kvm/api.rst. The kernel fills an entry and then sets its
//! flag DIRTY. This process reads the entry and then sets RESET. The ioctl that
//! resets the rings frees the entry. Each side reads the flags before the rest.

use std::fmt;
use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_ranges::PageSize;
use kvm_bindings::kvm_dirty_gfn;
use kvm_ioctls::VcpuFd;
use memmap2::{MmapOptions, MmapRaw};

use crate::dirty::vm::{DirtyEntry, DirtyRing};
use crate::vm::errno::Errno;

/// `KVM_DIRTY_LOG_PAGE_OFFSET`. It is the same on all architectures with rings;
/// kvm-bindings has it for these only.
const PAGE_OFFSET: u64 = 64;
/// `KVM_DIRTY_GFN_F_DIRTY`.
const DIRTY: u32 = 1 << 0;
/// `KVM_DIRTY_GFN_F_RESET`.
const RESET: u32 = 1 << 1;

/// An entry, as `kvm_dirty_gfn` lays it out.
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    page: AtomicU64,
}

const _: () = {
    assert!(size_of::<Entry>() == size_of::<kvm_dirty_gfn>());
    assert!(align_of::<Entry>() == align_of::<kvm_dirty_gfn>());
    assert!(offset_of!(Entry, flags) == offset_of!(kvm_dirty_gfn, flags));
    assert!(offset_of!(Entry, slot) == offset_of!(kvm_dirty_gfn, slot));
    assert!(offset_of!(Entry, page) == offset_of!(kvm_dirty_gfn, offset));
};

/// The dirty ring of a vCPU of [`KvmVm`](crate::KvmVm). It may outlive the
/// vCPU's descriptor.
pub struct VcpuDirtyRing {
    map: MmapRaw,
    /// A power of two.
    entries: usize,
    /// The number of harvested entries, modulo `entries`.
    next: usize,
}

impl VcpuDirtyRing {
    /// Maps the ring of `bytes` bytes, the size that its VM has enabled.
    pub(crate) fn map(vcpu: &VcpuFd, page_size: PageSize, bytes: u32) -> Result<Self, Errno> {
        let len = usize::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        let entries = len / size_of::<Entry>();
        if !entries.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        let mut options = MmapOptions::new();
        let map = options.offset(PAGE_OFFSET * page_size.bytes()).len(len);
        Ok(Self {
            map: map.map_raw(vcpu)?,
            entries,
            next: 0,
        })
    }

    /// The entry at `position`, modulo `entries`.
    fn entry(&self, position: usize) -> &Entry {
        let position = position & (self.entries - 1);
        // SAFETY: the mapping starts at a page and is `entries` entries long,
        // and `position` is below that; it lives as long as `self`, which the
        // reference borrows. All bit patterns are valid. The kernel changes the
        // entry concurrently by whole words, which atomics allow. In this process
        // only this type maps the ring.
        unsafe { &*self.map.as_ptr().cast::<Entry>().add(position) }
    }

    /// Whether the kernel has filled the entry at `position`, and it is not
    /// harvested yet.
    fn is_dirty(&self, position: usize) -> bool {
        // Acquire: the kernel's writes before this flag are visible too. An entry
        // that also has RESET was harvested before and is not reset yet.
        self.entry(position).flags.load(Ordering::Acquire) & (DIRTY | RESET) == DIRTY
    }
}

impl DirtyRing for VcpuDirtyRing {
    fn harvest(&mut self) -> Option<DirtyEntry> {
        if !self.is_dirty(self.next) {
            return None;
        }
        let entry = self.entry(self.next);
        let harvested = DirtyEntry {
            slot: entry.slot.load(Ordering::Relaxed),
            page: entry.page.load(Ordering::Relaxed),
        };
        // Release: the kernel may reuse the entry only after it was read.
        entry.flags.store(RESET, Ordering::Release);
        self.next = (self.next + 1) & (self.entries - 1);
        Some(harvested)
    }

    fn skipped(&self) -> Option<usize> {
        let mut later = (1..self.entries).map(|ahead| self.next + ahead);
        let any = later.any(|position| self.is_dirty(position));
        // In this order: the kernel fills the entries one after the other, so
        // once a later one is visible, this one is visible too.
        (any && !self.is_dirty(self.next)).then_some(self.next)
    }
}

impl fmt::Debug for VcpuDirtyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuDirtyRing")
            .field("entries", &self.entries)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring that no kernel fills.
    fn ring(entries: usize) -> VcpuDirtyRing {
        let mut options = MmapOptions::new();
        let map = options.len(entries * size_of::<Entry>()).map_anon();
        VcpuDirtyRing {
            map: map.expect("memory").into(),
            entries,
            next: 0,
        }
    }

    fn fill(ring: &VcpuDirtyRing, position: usize) {
        let entry = ring.entry(position);
        entry.page.store(position as u64, Ordering::Relaxed);
        entry.flags.store(DIRTY, Ordering::Release);
    }

    #[test]
    fn an_entry_that_the_kernel_skips_is_noticed() {
        let mut ring = ring(256);
        assert_eq!(ring.skipped(), None);
        (0..3).chain(4..5).for_each(|at| fill(&ring, at));
        assert_eq!(std::iter::from_fn(|| ring.harvest()).count(), 3);
        assert_eq!(ring.skipped(), Some(3));
        // The kernel was only late.
        fill(&ring, 3);
        assert_eq!(ring.skipped(), None);
        assert_eq!(std::iter::from_fn(|| ring.harvest()).count(), 2);
        assert_eq!(ring.skipped(), None);
        // The last one before it comes round.
        fill(&ring, 260);
        assert_eq!((ring.harvest(), ring.skipped()), (None, Some(5)));
        // All but the next one.
        (6..261).for_each(|at| fill(&ring, at));
        assert_eq!((ring.harvest(), ring.skipped()), (None, Some(5)));
    }

    #[test]
    fn a_ring_that_was_harvested_and_not_reset_lacks_no_entry() {
        let mut ring = ring(256);
        (0..256).for_each(|at| fill(&ring, at));
        assert_eq!(std::iter::from_fn(|| ring.harvest()).count(), 256);
        assert_eq!((ring.harvest(), ring.skipped()), (None, None));
        ring.entry(0).flags.store(DIRTY | RESET, Ordering::Release);
        assert_eq!((ring.harvest(), ring.skipped()), (None, None));
        ring.entry(0).flags.store(0, Ordering::Release);
        fill(&ring, 256);
        assert_eq!(ring.harvest().map(|entry| entry.page), Some(256));
    }
}
