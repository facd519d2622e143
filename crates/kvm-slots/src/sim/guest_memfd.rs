// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls on a simulated guest_memfd. It is an ordinary file and supports more
//! calls than a guest_memfd. These methods make the checks of `vfs_fallocate`
//! (fs/open.c) and of virt/kvm/guest_memfd.c.

use std::os::fd::{AsRawFd, BorrowedFd};

use guest_ranges::AddrRange;

use super::files::{FileKind, SimFile};
use super::host;
use super::mapping::GuestMemfdMapping;
use super::vm::{SimVm, State};
use crate::vm::GuestMemfdFlags;
use crate::vm::errno::Errno;

/// A system call on a guest_memfd's descriptor.
// Exhaustive: code that makes them on a real file has to know each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCall {
    /// `read`.
    Read,
    /// `write`.
    Write,
    /// `pread`.
    ReadAt,
    /// `pwrite`.
    WriteAt,
    /// `ftruncate` to a size in bytes.
    Truncate(i64),
    /// `fallocate`.
    Allocate {
        /// `FALLOC_FL_*`: KEEP_SIZE alone allocates; with PUNCH_HOLE it discards.
        mode: i32,
        /// The first byte.
        offset: i64,
        /// The number of bytes.
        len: i64,
    },
}

/// The sharing mode of a mapping.
// Exhaustive: the two kinds of mappings that `mmap` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// `MAP_SHARED`.
    Shared,
    /// `MAP_PRIVATE`: copied on write.
    Private,
}

impl SimVm {
    /// Makes a system call on a guest_memfd of this VM.
    ///
    /// # Errors
    /// The kernel's error; the file is unchanged. EINVAL also if the file is not a
    /// guest_memfd of this VM.
    pub fn file_call(&self, file: BorrowedFd<'_>, call: FileCall) -> Result<(), Errno> {
        let state = self.state();
        let (file, _) = state.guest_memfd(file)?;
        match call {
            // guest_memfd has no such file operations.
            FileCall::Read | FileCall::Write | FileCall::Truncate(_) => Err(Errno::EINVAL),
            // Neither has it positions.
            FileCall::ReadAt | FileCall::WriteAt => Err(Errno(libc::ESPIPE)),
            FileCall::Allocate { mode, offset, len } => {
                let page_size = self.config().page_size.bytes();
                allocate(file, page_size, (mode, offset, len))
            }
        }
    }

    /// Maps `size` bytes of a guest_memfd at `offset`.
    ///
    /// # Errors
    /// ENODEV for a file without [`GuestMemfdFlags::MMAP`], EINVAL for a
    /// mapping that is not shared, and the errors of `mmap` for the numbers.
    pub fn map_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        sharing: Sharing,
    ) -> Result<GuestMemfdMapping, Errno> {
        let page_size = self.config().page_size.bytes();
        let state = &mut *self.state();
        let (_, flags) = state.guest_memfd(file)?;
        // `mmap` checks the numbers before it calls the file.
        if size == 0 || offset % page_size != 0 {
            return Err(Errno::EINVAL);
        }
        if !flags.contains(GuestMemfdFlags::MMAP) {
            return Err(Errno::ENODEV);
        }
        if sharing == Sharing::Private {
            return Err(Errno::EINVAL);
        }
        let mapping = GuestMemfdMapping::new(file, offset, size, page_size)?;
        state.guest_memfd_mut(file)?.pages.map(mapping.mapped());
        Ok(mapping)
    }
}

impl State {
    fn guest_memfd(&self, file: BorrowedFd<'_>) -> Result<(&SimFile, GuestMemfdFlags), Errno> {
        let fd = u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes());
        let id = self.files.by_descriptor(fd)?;
        let file = self.files.get(id).ok_or(Errno::EINVAL)?;
        match file.kind {
            FileKind::GuestMemfd(flags) => Ok((file, flags)),
            FileKind::DmaBuf { .. } => Err(Errno::EINVAL),
        }
    }
}

fn allocate(
    file: &SimFile,
    page_size: u64,
    (mode, offset, len): (i32, i64, i64),
) -> Result<(), Errno> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    // All modes that guest_memfd does not support have the same error, but for
    // some of them the kernel checks the sum first.
    if mode & KEEP == 0 && mode & PUNCH != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if mode & !(KEEP | PUNCH) & !KNOWN_MODES != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let Some(end) = offset.checked_add(len) else {
        return Err(Errno(libc::EFBIG));
    };
    if mode & KEEP == 0 || mode & !(KEEP | PUNCH) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let aligned = |n: i64| n.unsigned_abs() % page_size == 0;
    if !aligned(offset) || !aligned(len) {
        return Err(Errno::EINVAL);
    }
    match mode & PUNCH != 0 {
        // Discarding beyond the end does nothing and succeeds.
        true => {
            host::punch(&file.file, offset, len)?;
            let len = len.unsigned_abs().into();
            if let Some(hole) = AddrRange::new(offset.unsigned_abs(), len) {
                file.pages.discard(hole);
            }
            Ok(())
        }
        false if end.unsigned_abs() <= file.size => host::allocate(&file.file, offset, len),
        false => Err(Errno::EINVAL),
    }
}

/// `FALLOC_FL_ZERO_RANGE` and `FALLOC_FL_UNSHARE_RANGE`, with and without KEEP_SIZE:
/// the file system layer supports these modes.
const KNOWN_MODES: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_UNSHARE_RANGE;
