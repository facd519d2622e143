// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The file that a probe makes slots on.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::outcome::ProbeError;
use crate::vm::errno::Errno;
use crate::vm::file_size::file_size;

/// A file of the kind that a profile is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) fd: u32,
    pub(super) size: u64,
}

impl Sample {
    pub(super) fn new(fd: BorrowedFd<'_>, page: u64) -> Result<Self, ProbeError> {
        let size = file_size(fd.as_raw_fd()).filter(|size| size % page == 0);
        Ok(Self {
            fd: raw(fd),
            size: size.ok_or(ProbeError::File(Errno::EINVAL))?,
        })
    }
}

/// The kernel's structs carry descriptors as unsigned numbers.
pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::from_ne_bytes(fd.as_raw_fd().to_ne_bytes())
}
