// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the simulation asks of the host: copies that fail as the kernel's do,
//! files to stand for guest_memfds, and which file a number names.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::errno::Errno;

/// Copies from this process's memory at `address`.
///
/// # Errors
/// EFAULT where nothing is mapped, as for a copy in the kernel.
///
/// # Safety
/// As for [`store`]; memory that is not there is no fault here.
pub(super) unsafe fn load(address: u64, data: &mut [u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let remote = remote(address, data.len())?;
    // SAFETY: `local` is `data`, which is ours to write. The kernel does the
    // copy and checks both sides, so that a bad `remote` is EFAULT.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    complete(copied, data.len())
}

/// Copies to this process's memory at `address`.
///
/// # Errors
/// EFAULT where nothing is mapped writably, as for a copy in the kernel.
///
/// # Safety
/// The addresses must be memory that a guest may write: no reference to it.
pub(super) unsafe fn store(address: u64, data: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let remote = remote(address, data.len())?;
    // SAFETY: the kernel only reads `local`, which is `data`. That `remote` may
    // be written is the caller's promise; what is not mapped is EFAULT.
    let copied = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    complete(copied, data.len())
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
    // SAFETY: the kernel has just made this descriptor for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let file = File::from(fd);
    file.set_len(size)?;
    Ok(file.into())
}

/// Opens the file behind `fd` once more. Unlike a duplicate, the result does
/// not keep open what `fd` is a descriptor of.
pub(super) fn open_again(fd: BorrowedFd<'_>) -> Result<File, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = File::options().read(true).write(true).open(path)?;
    Ok(file)
}

/// Takes a lock that lasts until the last duplicate of `fd`, and the last
/// mapping made through one, is gone.
pub(super) fn hold(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: `fd` is open; nothing else is passed.
    match unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Whether nobody holds the file any more, as another opening of it sees. That
/// opening then has the lock, and so sees the same from then on.
pub(super) fn is_let_go(own: BorrowedFd<'_>) -> bool {
    hold(own).is_ok()
}

/// Takes the bytes out of the file: they read as zeros, and take no memory.
pub(super) fn punch(file: &File, offset: i64, len: i64) -> Result<(), Errno> {
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE, offset, len)
}

/// Has the bytes take memory. They stay what they are: zeros in a hole.
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

/// What tells one file from another, whatever descriptors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostFile(u64, u64);

/// Which file the descriptor `fd` names.
///
/// # Errors
/// EBADF if there is no such descriptor.
pub(super) fn file_of(fd: &impl AsRawFd) -> Result<HostFile, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let metadata = fs::metadata(link).map_err(|_| Errno::EBADF)?;
    Ok(HostFile(metadata.dev(), metadata.ino()))
}
