// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes of a file that stays open.

#[cfg(feature = "std")]
use alloc::sync::Arc;
use core::fmt;
#[cfg(feature = "std")]
use std::os::fd::{AsFd, AsRawFd};

use crate::addr_range::AddrRange;
use crate::host_memory::{Owner, is_same_owner};

/// Bytes of a file: a descriptor, an offset and a size.
///
/// The descriptor is a number because the kernel's interfaces take one. The owner keeps
/// it open.
#[derive(Clone)]
pub struct FileSlice {
    fd: i32,
    range: AddrRange,
    owner: Owner,
}

impl FileSlice {
    /// `size` bytes of `file` from `offset` on. `None` if the range is empty or wraps.
    #[cfg(feature = "std")]
    pub fn new<F: AsFd + Send + Sync + 'static>(
        file: Arc<F>,
        offset: u64,
        size: u64,
    ) -> Option<Self> {
        let range = AddrRange::new(offset, size.into())?;
        let fd = file.as_fd().as_raw_fd();
        Some(Self {
            fd,
            range,
            owner: file,
        })
    }

    /// `size` bytes of the file behind `fd` from `offset` on. `None` if the range is
    /// empty or wraps.
    ///
    /// # Safety
    /// `fd` must stay open, and refer to the same file, while `owner` lives. If it is a
    /// guest_memfd or a file whose pages a guest may have, code that holds the slice may
    /// discard its bytes.
    #[expect(unsafe_code, reason = "declares the promise; there is no unsafe block")]
    pub unsafe fn from_raw_fd(fd: i32, offset: u64, size: u64, owner: Owner) -> Option<Self> {
        let range = AddrRange::new(offset, size.into())?;
        Some(Self { fd, range, owner })
    }

    /// The file descriptor.
    #[inline]
    pub fn fd(&self) -> i32 {
        self.fd
    }

    /// The offset of the slice in the file, in bytes.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.range.start()
    }

    /// The number of bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        // Made from a `u64`, so it fits.
        self.range.size_u64().unwrap_or(u64::MAX)
    }

    /// The owner that keeps the descriptor open.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// `size` bytes from `offset` on, relative to this slice. `None` if they are not all
    /// inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        let range = AddrRange::new(self.offset().checked_add(offset)?, size.into())?;
        self.range.covers(range).then(|| Self {
            fd: self.fd,
            range,
            owner: self.owner.clone(),
        })
    }

    /// The bytes of `self` and then those of `next`; `None` if `next` does not
    /// start right behind in the same descriptor, or has another owner.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        let range = self.range.joined(next.range)?;
        // A slice has fewer than 2^64 bytes.
        range.size_u64()?;
        let is_same = self.fd == next.fd && is_same_owner(&self.owner, &next.owner);
        is_same.then(|| Self {
            fd: self.fd,
            range,
            owner: self.owner.clone(),
        })
    }
}

/// Two are equal if they are the same bytes of the same descriptor.
impl PartialEq for FileSlice {
    fn eq(&self, other: &Self) -> bool {
        (self.fd, self.range) == (other.fd, other.range)
    }
}
impl Eq for FileSlice {}

impl fmt::Debug for FileSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSlice(fd {}, {:?})", self.fd, self.range)
    }
}
