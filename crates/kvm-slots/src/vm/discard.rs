// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Discards stale bytes, which returns their memory to the host.

use std::fmt;

use crate::vm::errno::Errno;

/// Stale bytes to discard: see [`Vm::discard`](crate::Vm::discard).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discard {
    /// The private side: a hole is punched into a file.
    File {
        /// The guest_memfd.
        fd: i32,
        /// The offset in the file.
        offset: u64,
        /// The number of bytes.
        size: u64,
    },
    /// The shared side: host memory is freed.
    Host {
        /// The host address.
        address: u64,
        /// The number of bytes.
        size: u64,
    },
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { fd, offset, size } => {
                write!(f, "{size:#x} bytes of fd {fd} + {offset:#x}")
            }
            Self::Host { address, size } => write!(f, "{size:#x} bytes at host {address:#x}"),
        }
    }
}

/// Frees the bytes. They then read as zeros, or, in a private mapping of a file,
/// as the bytes of the file.
///
/// # Errors
/// The kernel's error. Some of the bytes may already be freed.
///
/// # Safety
/// As for [`Vm::discard`](crate::Vm::discard).
pub(crate) unsafe fn perform(what: Discard) -> Result<(), Errno> {
    match what {
        Discard::File { fd, offset, size } => punch(fd, offset, size),
        // SAFETY: passed on from the caller.
        Discard::Host { address, size } => unsafe { release(address, size) },
    }
}

/// Punches a hole, which frees pages of a guest_memfd
/// (`kvm_gmem_fallocate` in virt/kvm/guest_memfd.c).
fn punch(fd: i32, offset: u64, size: u64) -> Result<(), Errno> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let number = |n: u64| libc::off64_t::try_from(n).map_err(|_| Errno::EINVAL);
    let (offset, size) = (number(offset)?, number(size)?);
    // SAFETY: the kernel checks the four numbers, and accesses no memory of the
    // process.
    let result = unsafe { libc::fallocate64(fd, mode, offset, size) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// Frees host memory, depending on the kind of mapping.
///
/// # Safety
/// The range is memory that a guest may write at any time.
unsafe fn release(address: u64, size: u64) -> Result<(), Errno> {
    // A shared mapping (a memfd, shared anonymous memory) gets a hole in the file
    // itself. Other mappings fail (madvise_remove in mm/madvise.c): EINVAL
    // without a file, EACCES for a private mapping.
    // SAFETY: passed on from the caller.
    match unsafe { advise(address, size, libc::MADV_REMOVE) } {
        Err(Errno::EINVAL | Errno::EACCES) => {}
        result => return result,
    }
    // SAFETY: passed on from the caller.
    unsafe { advise(address, size, libc::MADV_DONTNEED) }
}

/// # Safety
/// The range is memory that a guest may write at any time, and the advice one
/// that at most makes it zero.
unsafe fn advise(address: u64, size: u64, advice: i32) -> Result<(), Errno> {
    let number = |n: u64| usize::try_from(n).map_err(|_| Errno::EFAULT);
    let (address, size) = (number(address)?, number(size)?);
    // SAFETY: the caller guarantees that a guest may write this memory, zeros
    // included, at any time, so no one relies on its contents and there are no
    // references to it. Unmapped memory is ENOMEM.
    let result = unsafe { libc::madvise(std::ptr::without_provenance_mut(address), size, advice) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}
