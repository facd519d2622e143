// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory of the host process that a guest may access.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use crate::addr_range::AddrRange;

/// An owner that keeps a mapping or a descriptor valid while it lives.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// A piece of the host process's address space that a guest may access.
///
/// This crate never reads through the address. The code that created the value has
/// promised that it is sound to give the memory to a guest or a device. Code that
/// receives one therefore needs no `unsafe` to do so. It still needs `unsafe`, with a
/// justification of its own, to dereference the address.
///
/// Safe code cannot pass memory of its own off as a guest's:
///
/// ```compile_fail,E0133
/// # use std::sync::Arc;
/// # use guest_ranges::HostMemory;
/// let mut own = Box::new([1_u8; 4096]);
/// let address = own.as_mut_ptr() as u64;
/// let memory = HostMemory::new(address, 4096, Arc::new(()));
/// ```
#[derive(Clone)]
pub struct HostMemory {
    range: AddrRange,
    owner: Owner,
}

impl HostMemory {
    /// `size` bytes at host virtual address `address`, valid while `owner` lives.
    /// `None` if the range is empty or wraps, or if `address` is null.
    ///
    /// Null is not a host address: KVM interprets a `userspace_addr` of 0 with a
    /// guest_memfd as a memslot without host memory, and Linux lets no ordinary process
    /// map anything there (`vm.mmap_min_addr`).
    ///
    /// # Safety
    /// For as long as `owner` lives, the bytes must be memory that a guest, a
    /// device, or code that acts for them may read, write and discard at any
    /// time: mapped, with no reference to it and no other use that relies on its
    /// contents. If the mapping is read-only, code that gives it to a guest must make
    /// it read-only there. An address at which nothing is mapped is allowed if nothing
    /// ever will be: accesses to it fail.
    #[expect(unsafe_code, reason = "declares the promise; there is no unsafe block")]
    pub unsafe fn new(address: u64, size: u64, owner: Owner) -> Option<Self> {
        let range = AddrRange::new(address, size.into())?;
        (address != 0).then_some(Self { range, owner })
    }

    /// All bytes of a mapping that the crate `vm-memory` made, which is their owner.
    /// `None` if the mapping is not readable and writable, or was made elsewhere
    /// (`MmapRegion::build_raw`): its maker uses [`new`](Self::new).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use guest_ranges::HostMemory;
    /// use vm_memory::MmapRegion;
    ///
    /// let mapping = Arc::new(MmapRegion::<()>::new(0x4000)?);
    /// let memory = HostMemory::of_mmap(mapping.clone()).unwrap();
    /// assert_eq!(memory.address(), mapping.as_ptr().addr() as u64);
    /// assert_eq!(memory.size(), 0x4000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "vm-memory")]
    #[expect(unsafe_code, reason = "only here is it known what owns the bytes")]
    pub fn of_mmap<B>(mapping: Arc<vm_memory::MmapRegion<B>>) -> Option<Self>
    where
        B: vm_memory::bitmap::Bitmap + Send + Sync + 'static,
    {
        // The constants of every architecture that KVM has (`PROT_READ | PROT_WRITE`).
        const READ_AND_WRITE: i32 = 3;
        if mapping.prot() & READ_AND_WRITE != READ_AND_WRITE || !mapping.owned() {
            return None;
        }
        let address = u64::try_from(mapping.as_ptr().addr()).ok()?;
        let size = u64::try_from(mapping.size()).ok()?;
        // SAFETY: the region owns the mapping, which is new memory at an address that
        // the kernel chose, and unmaps it when it is dropped. Until then it yields raw
        // pointers, volatile slices and references to atomics, and no other reference to
        // the bytes: their contents may change at any time.
        unsafe { Self::new(address, size, mapping) }
    }

    /// A placeholder of `size` bytes without memory, for a model that no guest will run
    /// on. `None` if `size` is 0 or more than 2^63.
    ///
    /// The addresses are the last ones of the 64-bit space. Linux maps these for no
    /// process, and KVM and IOMMUs refuse them.
    pub fn placeholder(size: u64) -> Option<Self> {
        let address = size.wrapping_neg();
        let range = AddrRange::new(address, size.into())?;
        (address >= 1 << 63).then(|| Self {
            range,
            owner: Arc::new(()),
        })
    }

    /// The host virtual address of the first byte.
    #[inline]
    pub fn address(&self) -> u64 {
        self.range.start()
    }

    /// The host virtual addresses.
    #[inline]
    pub fn range(&self) -> AddrRange {
        self.range
    }

    /// The number of bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        // Made from a `u64`, so it fits.
        self.range.size_u64().unwrap_or(u64::MAX)
    }

    /// The owner that keeps the memory mapped.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// `size` bytes from `offset` on. `None` if they are not all inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        let range = AddrRange::new(self.address().checked_add(offset)?, size.into())?;
        self.range.covers(range).then(|| Self {
            range,
            owner: self.owner.clone(),
        })
    }

    /// The bytes of `self` and then those of `next`; `None` if `next` does not
    /// start right behind, or has another owner.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        // One owner keeps both mapped, so the promises for both hold together.
        let range = self.range.joined(next.range)?;
        is_same_owner(&self.owner, &next.owner).then(|| Self {
            range,
            owner: self.owner.clone(),
        })
    }
}

/// Whether both are the same value, not only equal ones.
pub(crate) fn is_same_owner(one: &Owner, other: &Owner) -> bool {
    // Without the vtables, which can differ for one value.
    core::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// Two are equal if their addresses are, whatever their owners.
impl PartialEq for HostMemory {
    fn eq(&self, other: &Self) -> bool {
        self.range == other.range
    }
}
impl Eq for HostMemory {}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({:?})", self.range)
    }
}
