// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls of the simulation: copies that fail like the kernel's, files for
//! guest_memfds, and the identity of files.
//!
//! Copies use `process_vm_readv` and `process_vm_writev` on this process: an access
//! to unmapped memory is EFAULT, as in KVM, and not a SIGSEGV of the simulation.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use crate::vm::errno::Errno;

/// Copies from this process's memory at `address`.
///
/// # Errors
/// EFAULT for unmapped memory, like a copy in the kernel.
///
/// # Safety
/// As for [`store`]. Unmapped memory does not fault.
pub(super) unsafe fn load(address: u64, data: &mut [u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let remote = remote(address, data.len())?;
    // SAFETY: `local` is `data`, which is writable. The kernel copies and checks
    // both sides, so a bad `remote` is EFAULT.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    complete(copied, data.len())
}

/// Copies to this process's memory at `address`.
///
/// # Errors
/// EFAULT for memory that is not mapped or not writable, like a copy in the kernel.
///
/// # Safety
/// The addresses must be memory that a guest may write: no reference to it.
pub(super) unsafe fn store(address: u64, data: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let remote = remote(address, data.len())?;
    // SAFETY: the kernel only reads `local`, which is `data`. The caller guarantees
    // that `remote` may be written; unmapped memory is EFAULT.
    let copied = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    complete(copied, data.len())
}

/// Stores zeros to this process's memory at `address`.
///
/// # Errors
/// EFAULT for memory that is not mapped or not writable. Some of it may be zero.
///
/// # Safety
/// As for [`store`].
pub(super) unsafe fn store_zeros(address: u64, size: u64) -> Result<(), Errno> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let end = address.checked_add(size).ok_or(Errno::EFAULT)?;
    let mut at = address;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let count = left.min(ZEROS.len());
        // SAFETY: passed on from the caller, for a part of the range.
        unsafe { store(at, &ZEROS[..count]) }?;
        at += count as u64;
    }
    Ok(())
}

fn remote(address: u64, len: usize) -> Result<libc::iovec, Errno> {
    let address = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    Ok(libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: len,
    })
}

fn complete(copied: isize, expected: usize) -> Result<(), Errno> {
    match usize::try_from(copied) {
        Ok(copied) if copied == expected => Ok(()),
        Ok(_) => Err(Errno::EFAULT),
        Err(_) => Err(Errno::last()),
    }
}

/// An anonymous file of `size` zero bytes.
pub(super) fn anonymous_file(size: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is a string with its terminator; nothing else is passed.
    let fd = unsafe { libc::memfd_create(c"simulated".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just created this descriptor; no one else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let file = File::from(fd);
    file.set_len(size)?;
    Ok(file.into())
}

/// Opens the file of `fd` again. Unlike a duplicate, the result does not keep the open
/// file description of `fd`.
pub(super) fn open_again(fd: BorrowedFd<'_>) -> Result<File, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = File::options().read(true).write(true).open(path)?;
    Ok(file)
}

/// Locks the file until the last duplicate of `fd`, and the last mapping made through
/// one, is dropped.
pub(super) fn hold(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: `fd` is open; nothing else is passed.
    match unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Whether the lock is released, as another open file description sees it. That one
/// then has the lock, so later calls return the same.
pub(super) fn is_let_go(own: BorrowedFd<'_>) -> bool {
    hold(own).is_ok()
}

/// Frees bytes of the file: they read as zeros and use no memory.
pub(super) fn punch(file: &File, offset: i64, len: i64) -> Result<(), Errno> {
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE, offset, len)
}

/// Allocates memory for the bytes, whose contents do not change: zeros in a hole.
pub(super) fn allocate(file: &File, offset: i64, len: i64) -> Result<(), Errno> {
    fallocate(file, 0, offset, len)
}

/// The file keeps its size.
fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> Result<(), Errno> {
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the file is open; only numbers are passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Whether a descriptor is open for reading and writing.
pub(super) fn is_read_write(fd: RawFd) -> bool {
    // SAFETY: `F_GETFL` takes no argument and accesses no memory. A number that is no
    // descriptor is an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_ACCMODE == libc::O_RDWR
}

/// The identity of a file, independent of its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostFile(u64, u64);

/// The identity of the file of `fd`.
///
/// # Errors
/// EBADF if there is no such descriptor.
pub(super) fn file_of(fd: &impl AsRawFd) -> Result<HostFile, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let metadata = fs::metadata(link).map_err(|_| Errno::EBADF)?;
    Ok(HostFile(metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    #[test]
    fn zeros_are_stored_in_a_range_and_nowhere_else() {
        let memory: Vec<AtomicU8> = (0..10_000).map(|_| AtomicU8::new(7)).collect();
        let address = memory.as_ptr().expose_provenance() as u64;
        // SAFETY: the range is in `memory`, and atomics may change behind a reference.
        unsafe { store_zeros(address + 3, 9_000) }.expect("it is mapped");
        let zeros: Vec<usize> = (0..memory.len())
            .filter(|&at| memory[at].load(Ordering::Relaxed) == 0)
            .collect();
        assert_eq!(zeros, (3..9_003).collect::<Vec<_>>());
    }

    #[test]
    fn zeros_cannot_be_stored_where_nothing_is_mapped() {
        // SAFETY: nothing is mapped at these addresses.
        assert_eq!(unsafe { store_zeros(0, 1) }, Err(Errno::EFAULT));
        // SAFETY: as above.
        assert_eq!(unsafe { store_zeros(u64::MAX, 2) }, Err(Errno::EFAULT));
    }
}
