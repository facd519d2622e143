// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Giving stale bytes back to the host.

use std::fmt;

use crate::errno::Errno;

/// Bytes that no one must see again. Where they were, zeros are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// A hole is punched into a file: the private side.
    File {
        /// The guest_memfd.
        fd: i32,
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        size: u64,
    },
    /// Host memory is given back: the shared side.
    Host {
        /// Where in the process.
        address: u64,
        /// How many bytes.
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
/// What the kernel says. Some of the bytes may be gone.
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

/// Punches a hole: the way in which a guest_memfd gives pages up
/// (`kvm_gmem_fallocate` in virt/kvm/guest_memfd.c).
fn punch(fd: i32, offset: u64, size: u64) -> Result<(), Errno> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let number = |n: u64| libc::off64_t::try_from(n).map_err(|_| Errno::EINVAL);
    let (offset, size) = (number(offset)?, number(size)?);
    // SAFETY: four numbers, of which the kernel checks each. No memory of the
    // process is named.
    let result = unsafe { libc::fallocate64(fd, mode, offset, size) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// Frees host memory, by what the mapping is.
///
/// # Safety
/// The range is memory that a guest may write at any time.
unsafe fn release(address: u64, size: u64) -> Result<(), Errno> {
    // A shared mapping (a memfd, shared anonymous memory): a hole in the file
    // itself. Other mappings have no such hole (madvise_remove in
    // mm/madvise.c): EINVAL without a file, EACCES on a private mapping of one.
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
    // SAFETY: by the caller's promise a guest may write this memory, zeros
    // included, at any time, so nobody relies on what it holds, and there are
    // no references to it. What is not mapped is ENOMEM.
    let result = unsafe { libc::madvise(std::ptr::without_provenance_mut(address), size, advice) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::last())
    }
}
