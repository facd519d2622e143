// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that a simulated guest may access: a mapping of its own, to which
//! there is never a reference.

use std::ptr::{self, NonNull};

/// An anonymous mapping of whole pages, zero at first.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and all accesses are copies.
unsafe impl Send for Pages {}
// SAFETY: as above. The tests are single-threaded, so copies do not overlap.
unsafe impl Sync for Pages {}

impl Pages {
    /// A new mapping of `len` bytes.
    pub fn new(len: usize) -> Self {
        // SAFETY: the kernel chooses a free address, so no mapping is replaced.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let start = NonNull::new(start.cast()).expect("mmap does not return null");
        Self { start, len }
    }

    /// The host address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.len as u64
    }

    /// The bytes from `offset` on.
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset + N <= self.len);
        let mut data = [0; N];
        // SAFETY: the bytes are inside the mapping, which lives as long as
        // `self`. The guest runs on this thread, so nothing writes meanwhile.
        unsafe { ptr::copy_nonoverlapping(self.start.add(offset).as_ptr(), data.as_mut_ptr(), N) };
        data
    }

    /// Stores bytes from `offset` on.
    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len);
        // SAFETY: as above, and there are no references to the mapping.
        unsafe {
            ptr::copy_nonoverlapping(data.as_ptr(), self.start.add(offset).as_ptr(), data.len());
        }
    }

    /// Removes all access to `len` bytes from `offset` on.
    pub fn forbid(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        // SAFETY: the bytes are inside the mapping, to which there are no
        // references. The tests do not access them afterwards.
        let result =
            unsafe { libc::mprotect(self.start.add(offset).as_ptr().cast(), len, libc::PROT_NONE) };
        assert_eq!(result, 0);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, to which there are no references.
        // A slot that names it holds it as its owner, or is never used again.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
