// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A mapping of a simulated guest_memfd.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use crate::vm::errno::Errno;

/// A shared mapping of a simulated guest_memfd, until it is dropped. It keeps the file
/// open.
#[derive(Debug)]
pub struct GuestMemfdMapping {
    /// Addresses that nothing else uses, from before the first byte on.
    reserved: NonNull<libc::c_void>,
    reserved_size: usize,
    address: u64,
    size: u64,
}

// SAFETY: a mapping belongs to no thread, and this type touches none of its
// bytes.
unsafe impl Send for GuestMemfdMapping {}
// SAFETY: as above.
unsafe impl Sync for GuestMemfdMapping {}

impl GuestMemfdMapping {
    /// Maps the file at an address that is a multiple of `page_size`, which the
    /// simulated kernel's pages have and this machine's need not.
    pub(super) fn new(
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        page_size: u64,
    ) -> Result<Self, Errno> {
        let reserved_size = size.checked_add(page_size).ok_or(Errno::ENOMEM)?;
        let reserved_size = usize::try_from(reserved_size).map_err(|_| Errno::ENOMEM)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let (none, any) = (libc::PROT_NONE, ptr::null_mut());
        // SAFETY: a new mapping at an address that the kernel chooses replaces no
        // other.
        let reserved = unsafe { libc::mmap(any, reserved_size, none, anonymous, -1, 0) };
        let reserved = match NonNull::new(reserved) {
            Some(reserved) if reserved.as_ptr() != libc::MAP_FAILED => reserved,
            _ => return Err(Errno::last()),
        };
        let address = (reserved.as_ptr().expose_provenance() as u64).next_multiple_of(page_size);
        let mapping = Self {
            reserved,
            reserved_size,
            address,
            size,
        };
        let at = usize::try_from(address).map_err(|_| Errno::ENOMEM)?;
        let at: *mut libc::c_void = ptr::with_exposed_provenance_mut(at);
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (fd, fixed) = (file.as_raw_fd(), libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: the range lies in the reserved addresses, to which there are no
        // references.
        let mapped = unsafe { libc::mmap(at, size, protection, fixed, fd, offset) };
        match mapped == at {
            true => Ok(mapping),
            false => Err(Errno::last()),
        }
    }

    /// The host virtual address of the first byte. An access to private pages, or
    /// beyond the end of the file, is SIGBUS.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for GuestMemfdMapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping. The caller that made a memslot of its
        // address guaranteed to keep it while the slot exists.
        unsafe { libc::munmap(self.reserved.as_ptr(), self.reserved_size) };
    }
}
