// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that a guest under test may access. The host removes and restores it
//! page by page.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use guest_ranges::HostMemory;
use kvm_slots::Errno;

/// The size of a page.
pub const PAGE: u64 = 4096;

/// The number of guard pages after the arena: room for slots that are longer
/// than their memory.
const GUARD: usize = 4096;

/// Pages of anonymous memory. The arena owns the addresses as long as it lives,
/// also where no memory is mapped.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    pages: usize,
}

/// A change that the host makes to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// Unmaps the memory.
    Unmap,
    /// Maps zeros, readable and writable.
    Renew,
    /// Discards what was written (`MADV_DONTNEED`).
    Discard,
    /// Makes the page read-only.
    Protect,
}

impl Arena {
    /// An arena of zeros.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn new(pages: usize) -> Self {
        let len = (pages + GUARD) * 0x1000;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses a free address, so no mapping is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "no memory for an arena");
        let start = NonNull::new(start.cast()).expect("mmap does not return null");
        let arena = Self { start, pages };
        for page in 0..pages {
            arena.change(page, HostChange::Renew);
        }
        arena
    }

    /// The host address of a page, which may also be a guard page.
    pub fn address(&self, page: usize) -> u64 {
        assert!(page < self.pages + GUARD);
        self.start.as_ptr().expose_provenance() as u64 + page as u64 * PAGE
    }

    /// The memory of some pages, for guests under test.
    ///
    /// # Panics
    /// If it reaches beyond the guard pages.
    pub fn host_memory(self: &Arc<Self>, page: usize, pages: usize) -> HostMemory {
        assert!(page + pages <= self.pages + GUARD);
        let (address, size) = (self.address(page), pages as u64 * PAGE);
        // SAFETY: the addresses belong to the arena while it lives. There are no
        // references to the bytes: this process has the kernel copy them.
        let memory = unsafe { HostMemory::new(address, size, self.clone()) };
        memory.expect("an arena has pages")
    }

    /// The number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Copies bytes from the memory, through the kernel.
    ///
    /// # Errors
    /// EFAULT if no memory is mapped.
    pub fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], Errno> {
        peek(self.address(0) + offset)
    }

    /// Copies bytes to the memory, through the kernel.
    ///
    /// # Errors
    /// EFAULT if no writable memory is mapped.
    ///
    /// # Panics
    /// If the bytes are not all in the arena.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        assert!(offset + data.len() as u64 <= self.pages as u64 * PAGE);
        // SAFETY: the bytes are in the arena, to which there are no references.
        unsafe { poke(self.address(0) + offset, data) }
    }

    /// Changes one page.
    ///
    /// # Panics
    /// If the page is not in the arena.
    pub fn change(&self, page: usize, change: HostChange) {
        assert!(page < self.pages);
        let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let none = fixed | libc::MAP_NORESERVE;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let at: *mut libc::c_void =
            ptr::with_exposed_provenance_mut(usize::try_from(self.address(page)).expect("64 bits"));
        // SAFETY: the page is in the arena, to which there are no references.
        // This process has the kernel copy the bytes. A guest that accesses a
        // missing page faults.
        let done = unsafe {
            match change {
                HostChange::Unmap => libc::mmap(at, 0x1000, libc::PROT_NONE, none, -1, 0) == at,
                HostChange::Renew => libc::mmap(at, 0x1000, both, fixed, -1, 0) == at,
                HostChange::Discard => libc::madvise(at, 0x1000, libc::MADV_DONTNEED) == 0,
                HostChange::Protect => libc::mprotect(at, 0x1000, libc::PROT_READ) == 0,
            }
        };
        assert!(done, "{change:?}: {}", Errno::last());
    }
}

// SAFETY: the mapping belongs to no thread, and the kernel makes all copies.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        let len = (self.pages + GUARD) * 0x1000;
        // SAFETY: the mapping is the arena's. VMs whose slots name it are dropped
        // earlier, or their guests no longer run.
        unsafe { libc::munmap(self.start.as_ptr().cast(), len) };
    }
}

/// Copies bytes from this process's memory, through the kernel.
///
/// # Errors
/// EFAULT if no memory is mapped.
pub fn peek<const N: usize>(address: u64) -> Result<[u8; N], Errno> {
    let mut data = [0; N];
    let local = vector(data.as_mut_ptr() as u64, N)?;
    let remote = vector(address, N)?;
    // SAFETY: `local` is `data`, which this function may write. The kernel
    // copies and checks both sides; a concurrent write changes only the bytes.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    complete(copied, N).map(|()| data)
}

/// Copies bytes to this process's memory, through the kernel.
///
/// # Errors
/// EFAULT if no writable memory is mapped.
///
/// # Safety
/// There must be no references to the bytes.
pub unsafe fn poke(address: u64, data: &[u8]) -> Result<(), Errno> {
    let local = vector(data.as_ptr() as u64, data.len())?;
    let remote = vector(address, data.len())?;
    // SAFETY: the kernel only reads `local`, which is `data`. The caller has
    // promised that `remote` may be written.
    let copied = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    complete(copied, data.len())
}

fn vector(address: u64, len: usize) -> Result<libc::iovec, Errno> {
    let address = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    Ok(libc::iovec {
        iov_base: ptr::with_exposed_provenance_mut(address),
        iov_len: len,
    })
}

fn complete(copied: isize, wanted: usize) -> Result<(), Errno> {
    match usize::try_from(copied) {
        Ok(copied) if copied == wanted => Ok(()),
        Ok(_) => Err(Errno::EFAULT),
        Err(_) => Err(Errno::last()),
    }
}
