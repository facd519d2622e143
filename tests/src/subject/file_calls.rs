// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls on a real guest_memfd.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use kvm_slots::Errno;
use kvm_slots::sim::{FileCall, GuestMemfdMapping, Sharing};

/// A mapping of a guest_memfd, real or simulated.
#[derive(Debug)]
pub struct FileMapping {
    address: u64,
    size: usize,
    /// The mapping of a simulated file, which unmaps itself.
    simulated: Option<GuestMemfdMapping>,
}

impl FileMapping {
    /// The host address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl From<GuestMemfdMapping> for FileMapping {
    fn from(mapping: GuestMemfdMapping) -> Self {
        Self {
            address: mapping.address(),
            size: 0,
            simulated: Some(mapping),
        }
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        if self.simulated.is_some() {
            return;
        }
        let address = usize::try_from(self.address).expect("64 bits");
        // SAFETY: this value owns the mapping, to which there are no references.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(address), self.size) };
    }
}

/// Makes the call.
pub(super) fn call(file: BorrowedFd<'_>, call: FileCall) -> Result<(), Errno> {
    let fd = file.as_raw_fd();
    let mut byte = 0_u8;
    let one: *mut libc::c_void = (&raw mut byte).cast();
    // SAFETY: the file is open, and `one` points to a byte of this function. All
    // other arguments are numbers.
    let result = unsafe {
        match call {
            FileCall::Read => libc::read(fd, one, 1),
            FileCall::Write => libc::write(fd, one, 1),
            FileCall::ReadAt => libc::pread(fd, one, 1, 0),
            FileCall::WriteAt => libc::pwrite(fd, one, 1, 0),
            FileCall::Truncate(size) => libc::ftruncate(fd, size) as isize,
            FileCall::Allocate { mode, offset, len } => {
                libc::fallocate(fd, mode, offset, len) as isize
            }
        }
    };
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Maps the file.
pub(super) fn map(
    file: BorrowedFd<'_>,
    offset: u64,
    size: u64,
    sharing: Sharing,
) -> Result<FileMapping, Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let both = libc::PROT_READ | libc::PROT_WRITE;
    let flags = match sharing {
        Sharing::Shared => libc::MAP_SHARED,
        Sharing::Private => libc::MAP_PRIVATE,
    };
    // SAFETY: the kernel chooses a free address, so no mapping is replaced.
    let start = unsafe { libc::mmap(ptr::null_mut(), size, both, flags, file.as_raw_fd(), offset) };
    if start == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(FileMapping {
        address: start.expose_provenance() as u64,
        size,
        simulated: None,
    })
}
