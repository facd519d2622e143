// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes behind a region: host memory, a file, or both.
//!
//! The types here enforce the first two invariants of the crate. [`Memory`], which
//! backs RAM, ROM and ROM devices, cannot be built without a host address.
//! [`PrivateMmio`] is built from a file alone and has no method that returns an
//! address.

use guest_ranges::{FileSlice, GuestMemfdSides, HostMemory};

/// The backing of RAM, ROM and ROM devices: host memory, and possibly a guest_memfd
/// beside or beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    host: HostMemory,
    guest_memfd: Option<(FileSlice, GuestMemfdSides)>,
}

impl Memory {
    /// Ordinary host memory.
    pub fn host_only(host: HostMemory) -> Self {
        Self {
            host,
            guest_memfd: None,
        }
    }

    /// Host memory with a guest_memfd; `None` if their sizes differ.
    pub fn with_guest_memfd(
        host: HostMemory,
        file: FileSlice,
        sides: GuestMemfdSides,
    ) -> Option<Self> {
        (host.size() == file.size()).then_some(Self {
            host,
            guest_memfd: Some((file, sides)),
        })
    }

    /// The host mapping, which always exists. An access to a page through it may
    /// fault while the page is private.
    pub fn host(&self) -> &HostMemory {
        &self.host
    }

    /// The guest_memfd, if there is one, and which pages it holds.
    pub fn guest_memfd(&self) -> Option<(&FileSlice, GuestMemfdSides)> {
        self.guest_memfd
            .as_ref()
            .map(|(file, sides)| (file, *sides))
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.host.size()
    }

    /// `size` bytes from `offset` on; `None` if they do not all lie inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        let guest_memfd = match &self.guest_memfd {
            Some((file, sides)) => Some((file.slice(offset, size)?, *sides)),
            None => None,
        };
        Some(Self {
            host: self.host.slice(offset, size)?,
            guest_memfd,
        })
    }
}

/// Device registers that the guest reaches through its second-stage page
/// table and that the host cannot map.
///
/// No method returns a pointer or a host address, and nothing converts this type to
/// [`Memory`]:
///
/// ```compile_fail
/// # fn f(mmio: &memory_model::PrivateMmio) {
/// mmio.host();
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateMmio {
    file: FileSlice,
}

impl PrivateMmio {
    /// The registers behind `file`, which is a dma-buf for a VFIO device.
    pub fn new(file: FileSlice) -> Self {
        Self { file }
    }

    /// The file and offset by which the kernel finds the registers.
    pub fn file(&self) -> &FileSlice {
        &self.file
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// `size` bytes from `offset` on; `None` if they do not all lie inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        Some(Self::new(self.file.slice(offset, size)?))
    }
}
