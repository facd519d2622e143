// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A mapping of a simulated guest_memfd.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use crate::vm::errno::Errno;

/// A shared mapping of a simulated guest_memfd, until it is dropped. It keeps the file
/// open.
#[derive(Debug)]
pub struct GuestMemfdMapping {
    start: NonNull<libc::c_void>,
    size: usize,
}

// SAFETY: a mapping belongs to no thread, and this type touches none of its
// bytes.
unsafe impl Send for GuestMemfdMapping {}
// SAFETY: as above.
unsafe impl Sync for GuestMemfdMapping {}

impl GuestMemfdMapping {
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Self, Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (fd, shared) = (file.as_raw_fd(), libc::MAP_SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses replaces no
        // other.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, shared, fd, offset) };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, size }),
            _ => Err(Errno::last()),
        }
    }

    /// The host virtual address of the first byte. An access to private pages, or
    /// beyond the end of the file, is SIGBUS.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size as u64
    }
}

impl Drop for GuestMemfdMapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping. The caller that made a memslot of its
        // address guaranteed to keep it while the slot exists.
        unsafe { libc::munmap(self.start.as_ptr(), self.size) };
    }
}
