// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A mapping of a simulated guest_memfd.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use guest_ranges::AddrRange;

use crate::vm::errno::Errno;

/// A shared mapping of a simulated guest_memfd, until it is dropped. It keeps the file
/// open.
#[derive(Debug)]
pub struct GuestMemfdMapping {
    mapped: Arc<Mapped>,
}

impl GuestMemfdMapping {
    /// Maps the file at an address that is a multiple of `page_size`, which the
    /// simulated kernel's pages have and this machine's need not.
    pub(super) fn new(
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        page_size: u64,
    ) -> Result<Self, Errno> {
        let mapped = Mapped::new(file, offset, size, page_size)?;
        Ok(Self {
            mapped: Arc::new(mapped),
        })
    }

    /// The host virtual address of the first byte. An access to private pages, or
    /// beyond the end of the file, is SIGBUS.
    pub fn address(&self) -> u64 {
        self.mapped.address
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.mapped.size
    }

    pub(super) fn mapped(&self) -> &Arc<Mapped> {
        &self.mapped
    }
}

/// The addresses of a mapping.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Addresses that nothing else uses, from before the first byte on.
    reserved: NonNull<libc::c_void>,
    reserved_size: usize,
    address: u64,
    size: u64,
    /// The mapped file, and the offset of the first byte.
    file: OwnedFd,
    offset: u64,
}

// SAFETY: a mapping belongs to no thread, and this type touches none of its
// bytes.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(file: BorrowedFd<'_>, offset: u64, size: u64, page_size: u64) -> Result<Self, Errno> {
        let file = file.try_clone_to_owned().map_err(Errno::from)?;
        let reserved_size = size.checked_add(page_size).ok_or(Errno::ENOMEM)?;
        let reserved_size = usize::try_from(reserved_size).map_err(|_| Errno::ENOMEM)?;
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
            file,
            offset,
        };
        mapping.map(0, size, offset)?;
        Ok(mapping)
    }

    /// Maps `size` bytes from the byte `at` of the mapping on, to bytes of the file.
    fn map(&self, at: u64, size: u64, offset: u64) -> Result<(), Errno> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let address = usize::try_from(self.address + at).map_err(|_| Errno::ENOMEM)?;
        let address: *mut libc::c_void = ptr::with_exposed_provenance_mut(address);
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (fd, fixed) = (self.file.as_raw_fd(), libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: the range lies in the reserved addresses. References to them would
        // have to allow for changes by the guest, and for SIGBUS.
        let mapped = unsafe { libc::mmap(address, size, protection, fixed, fd, offset) };
        match mapped == address {
            true => Ok(()),
            false => Err(Errno::last()),
        }
    }

    /// Shows pages of the file, by offset, or none of their bytes: an access is then
    /// SIGBUS, as beyond the end of a file. If this host cannot do that, because its
    /// pages are larger, the mapping does not change.
    pub(super) fn show(&self, pages: AddrRange, shown: bool) {
        /// Beyond the end of any simulated file.
        const BEYOND: u64 = 1 << 60;
        let all = AddrRange::new(self.offset, self.size.into());
        let Some(part) = all.and_then(|all| all.intersect(pages)) else {
            return;
        };
        // A part of the mapping fits.
        let size = part.last() - part.start() + 1;
        let offset = match shown {
            true => part.start(),
            false => BEYOND,
        };
        let _ = self.map(part.start() - self.offset, size, offset);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping. The caller that made a memslot of its
        // address guaranteed to keep it while the slot exists.
        unsafe { libc::munmap(self.reserved.as_ptr(), self.reserved_size) };
    }
}
