// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that a guest under test may access. The host removes and restores it
//! page by page.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use guest_ranges::{HostMemory, PageSize};
use kvm_slots::{Capabilities, Errno};

/// The size of a page of 4 KiB. Pages of the host and of the simulated kernels may be
/// larger: [`Arena::page_size`].
pub const PAGE: u64 = 4096;

/// The number of guard pages after the arena: room for slots that are longer
/// than their memory.
const GUARD: usize = 4096;

/// Pages of anonymous memory. The arena owns the addresses as long as it lives,
/// also where no memory is mapped.
#[derive(Debug)]
pub struct Arena {
    /// Addresses from before the first page on.
    reserved: NonNull<u8>,
    /// The address of the first page, a multiple of the page size.
    start: u64,
    page_size: u64,
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
    /// An arena of zeros, in pages of this host.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn new(pages: usize) -> Self {
        Self::with_page_size(pages, host_page_size())
    }

    /// An arena of zeros, in pages of this size: a multiple of the host's.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn with_page_size(pages: usize, page_size: u64) -> Self {
        let len = reserved(pages, page_size);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses a free address, so no mapping is replaced.
        let reserved = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(reserved, libc::MAP_FAILED, "no memory for an arena");
        let address = reserved.expose_provenance() as u64;
        let arena = Self {
            reserved: NonNull::new(reserved.cast()).expect("mmap does not return null"),
            start: address.next_multiple_of(page_size),
            page_size,
            pages,
        };
        for page in 0..pages {
            arena.change(page, HostChange::Renew);
        }
        arena
    }

    /// The host address of a page, which may also be a guard page.
    pub fn address(&self, page: usize) -> u64 {
        assert!(page < self.pages + GUARD);
        self.start + page as u64 * self.page_size
    }

    /// The memory of some pages, for guests under test.
    ///
    /// # Panics
    /// If it reaches beyond the guard pages.
    pub fn host_memory(self: &Arc<Self>, page: usize, pages: usize) -> HostMemory {
        assert!(page + pages <= self.pages + GUARD);
        let (address, size) = (self.address(page), pages as u64 * self.page_size);
        // SAFETY: the addresses belong to the arena while it lives. There are no
        // references to the bytes: this process has the kernel copy them.
        let memory = unsafe { HostMemory::new(address, size, self.clone()) };
        memory.expect("an arena has pages")
    }

    /// The size of a page in bytes.
    pub fn page_size(&self) -> u64 {
        self.page_size
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
        assert!(offset + data.len() as u64 <= self.pages as u64 * self.page_size);
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
        let size = usize::try_from(self.page_size).expect("64 bits");
        let at: *mut libc::c_void =
            ptr::with_exposed_provenance_mut(usize::try_from(self.address(page)).expect("64 bits"));
        // SAFETY: the page is in the arena, to which there are no references.
        // This process has the kernel copy the bytes. A guest that accesses a
        // missing page faults.
        let done = unsafe {
            match change {
                HostChange::Unmap => libc::mmap(at, size, libc::PROT_NONE, none, -1, 0) == at,
                HostChange::Renew => libc::mmap(at, size, both, fixed, -1, 0) == at,
                HostChange::Discard => libc::madvise(at, size, libc::MADV_DONTNEED) == 0,
                HostChange::Protect => libc::mprotect(at, size, libc::PROT_READ) == 0,
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
        let len = reserved(self.pages, self.page_size);
        // SAFETY: the mapping is the arena's. VMs whose slots name it are dropped
        // earlier, or their guests no longer run.
        unsafe { libc::munmap(self.reserved.as_ptr().cast(), len) };
    }
}

/// The number of bytes that an arena reserves: one page more, to align the first one.
fn reserved(pages: usize, page_size: u64) -> usize {
    (pages + GUARD + 1) * usize::try_from(page_size).expect("64 bits")
}

/// The page size of this host in bytes.
pub fn host_page_size() -> u64 {
    host_pages().bytes()
}

/// The same as a [`PageSize`].
pub fn host_pages() -> PageSize {
    Capabilities::minimal().page_size
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
