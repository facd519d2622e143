// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty ring of a real vCPU: memory that the kernel and we write in turn.
//!
//! The protocol is that of `KVM_CAP_DIRTY_LOG_RING` in
//! Documentation/virt/kvm/api.rst. The kernel fills an entry and then sets its
//! flag DIRTY; we read the entry and then set RESET; the ioctl that resets the
//! rings makes it free again. Each side looks at the flags before the rest.

use std::fmt;
use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvm_bindings::kvm_dirty_gfn;
use kvm_ioctls::VcpuFd;
use memmap2::{MmapOptions, MmapRaw};

use crate::{DirtyEntry, DirtyRing, Errno};

/// `KVM_DIRTY_LOG_PAGE_OFFSET`, the same wherever there are rings; kvm-bindings
/// has it for those architectures only.
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
    /// How many were harvested, modulo `entries`.
    next: usize,
}

impl VcpuDirtyRing {
    /// Maps the ring of `bytes` bytes, which is what its VM has enabled.
    pub(crate) fn map(vcpu: &VcpuFd, page_size: u64, bytes: u32) -> Result<Self, Errno> {
        let len = usize::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        let entries = len / size_of::<Entry>();
        if !entries.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        let mut options = MmapOptions::new();
        let map = options.offset(PAGE_OFFSET * page_size).len(len);
        Ok(Self {
            map: map.map_raw(vcpu)?,
            entries,
            next: 0,
        })
    }

    fn entry(&self) -> &Entry {
        debug_assert!(self.next < self.entries);
        // SAFETY: the mapping starts at a page and is `entries` entries long,
        // and `next` is below that; it lives as long as `self`, which the
        // reference borrows. All bit patterns are valid. Whoever else has the
        // entry, the kernel, changes it by whole words while we do, which is
        // what atomics are for; in this process nobody else has it: each ring
        // is mapped by this type alone.
        unsafe { &*self.map.as_ptr().cast::<Entry>().add(self.next) }
    }
}

impl DirtyRing for VcpuDirtyRing {
    fn harvest(&mut self) -> Option<DirtyEntry> {
        let entry = self.entry();
        // Acquire: what the kernel wrote before this flag is there too. One
        // that has RESET as well is ours from last time round, not yet reset.
        if entry.flags.load(Ordering::Acquire) & (DIRTY | RESET) != DIRTY {
            return None;
        }
        let harvested = DirtyEntry {
            slot: entry.slot.load(Ordering::Relaxed),
            page: entry.page.load(Ordering::Relaxed),
        };
        // Release: the kernel may use the entry again only once it was read.
        entry.flags.store(RESET, Ordering::Release);
        self.next = (self.next + 1) & (self.entries - 1);
        Some(harvested)
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
