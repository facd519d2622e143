// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host memory for guests.

use std::io;
use std::sync::Arc;

use kvm_slots::HostMemory;
use memmap2::{MmapOptions, MmapRaw};

/// Memory of this process that a guest may access at any time: a mapping of its
/// own, without references to its bytes.
#[derive(Debug)]
pub struct Bytes(MmapRaw);

impl Bytes {
    /// `size` zero bytes.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn zeros(size: u64) -> io::Result<Arc<Self>> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(size).map_anon()?;
        Ok(Arc::new(Self(map.into())))
    }

    /// The host virtual address of the first byte.
    pub fn address(&self) -> u64 {
        self.0.as_mut_ptr().expose_provenance() as u64
    }

    /// All bytes, as host memory that keeps them mapped.
    pub fn host_memory(self: &Arc<Self>) -> HostMemory {
        // SAFETY: this value is the owner and keeps the bytes mapped. There are
        // no references to them, and accesses are volatile.
        let memory = unsafe { HostMemory::new(self.address(), self.0.len() as u64, self.clone()) };
        memory.expect("a mapping has bytes and an address")
    }

    /// The byte at `offset`, or `None` beyond the end.
    pub fn get(&self, offset: u64) -> Option<u8> {
        let at = self.at(offset)?;
        // SAFETY: the address is in the mapping, which is readable as long as
        // `self` lives. The guest may write it, so the access is volatile.
        Some(unsafe { at.read_volatile() })
    }

    /// Overwrites the byte at `offset`. Returns `None` beyond the end.
    pub fn set(&self, offset: u64, byte: u8) -> Option<()> {
        let at = self.at(offset)?;
        // SAFETY: as above; the mapping is writable, without references to it.
        unsafe { at.write_volatile(byte) };
        Some(())
    }

    fn at(&self, offset: u64) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset < self.0.len();
        inside.then(|| self.0.as_mut_ptr().wrapping_add(offset))
    }
}
