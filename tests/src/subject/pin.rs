// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! References to pages of a guest_memfd.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use kvm_slots::Errno;
use kvm_slots::sim::PagePin;

/// References to pages of a guest_memfd, until it is dropped.
#[derive(Debug)]
#[must_use = "the references end when it is dropped"]
pub enum Pin {
    /// Both ends of a pipe with the pages in it.
    Pipe([OwnedFd; 2]),
    /// References to pages of a simulated file.
    Simulated(PagePin),
}

/// Puts pages into a pipe, which keeps references to them and makes no copy.
pub(super) fn in_a_pipe(address: u64, size: u64) -> Result<Pin, Errno> {
    let pipe = pipe()?;
    let (address, size) = (
        usize::try_from(address).map_err(|_| Errno::EFAULT)?,
        usize::try_from(size).map_err(|_| Errno::EFAULT)?,
    );
    let pages = libc::iovec {
        iov_base: ptr::with_exposed_provenance_mut(address),
        iov_len: size,
    };
    // A pipe that is full fails the test instead of stopping it.
    let flags = libc::SPLICE_F_NONBLOCK;
    // SAFETY: the kernel checks the address, and reads the pages when the pipe is read,
    // which no one does.
    let put = unsafe { libc::vmsplice(pipe[1].as_raw_fd(), &pages, 1, flags) };
    match usize::try_from(put) {
        Ok(put) if put == size => Ok(Pin::Pipe(pipe)),
        // It stops before a page that it cannot reach.
        Ok(_) => Err(Errno::EFAULT),
        Err(_) => Err(Errno::last()),
    }
}

/// The end that is read, and the one that is written.
fn pipe() -> Result<[OwnedFd; 2], Errno> {
    let mut ends = [-1; 2];
    // SAFETY: there is room for both descriptors.
    match unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } {
        // SAFETY: both are new, and no one else has them.
        0 => Ok(ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) })),
        _ => Err(Errno::last()),
    }
}
