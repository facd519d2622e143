// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory of this process that a guest may access at any time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use guest_ranges::HostMemory;
use memmap2::{MmapOptions, MmapRaw};
use vm_memory::{Bytes, VolatileSlice};

/// A mapping that is removed when it is dropped. All access is volatile, because
/// a guest may access the same bytes.
#[derive(Debug)]
pub struct HostMapping {
    map: MmapRaw,
}

impl HostMapping {
    /// Zero bytes that take up host memory when they are first accessed.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub fn anonymous(size: u64) -> io::Result<Self> {
        let map = options(size)?.no_reserve_swap().map_anon()?;
        Ok(Self { map: map.into() })
    }

    /// `size` bytes of a file from `offset` on, shared with its other mappings.
    ///
    /// # Errors
    /// The error of `mmap`.
    pub fn of_file(file: &OwnedFd, offset: u64, size: u64) -> io::Result<Self> {
        let map = options(size)?.offset(offset).map_raw(file)?;
        Ok(Self { map })
    }

    /// The host virtual address of the first byte.
    pub fn address(&self) -> u64 {
        self.map.as_mut_ptr().expose_provenance() as u64
    }

    /// The whole mapping as host memory, which keeps it alive.
    pub fn host_memory(self: &Arc<Self>) -> HostMemory {
        let (address, size) = (self.address(), self.map.len() as u64);
        // SAFETY: the bytes stay mapped while the owner, this value, lives. There
        // are no references to them: this type offers volatile access only.
        let memory = unsafe { HostMemory::new(address, size, self.clone()) };
        // A mapping is never empty, and the kernel maps nothing at address 0.
        memory.expect("a mapping has bytes and an address")
    }

    /// Copies the bytes from `offset` on.
    ///
    /// # Errors
    /// If they are not all in the mapping.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let offset = position(offset)?;
        self.bytes()
            .read_slice(data, offset)
            .map_err(io::Error::other)
    }

    /// Overwrites the bytes from `offset` on.
    ///
    /// # Errors
    /// If they are not all in the mapping.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = position(offset)?;
        self.bytes()
            .write_slice(data, offset)
            .map_err(io::Error::other)
    }

    fn bytes(&self) -> VolatileSlice<'_> {
        // SAFETY: the mapping has exactly this address and length, readable and
        // writable, for as long as `self`, which the slice borrows. There are no
        // references to its bytes: this type offers volatile access only.
        unsafe { VolatileSlice::new(self.map.as_mut_ptr(), self.map.len()) }
    }
}

fn options(size: u64) -> io::Result<MmapOptions> {
    let mut options = MmapOptions::new();
    options.len(position(size)?);
    Ok(options)
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
