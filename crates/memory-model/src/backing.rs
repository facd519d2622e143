// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What lies behind a region's bytes: host memory, or a file, or both.
//!
//! The types here carry the first two invariants of the crate. [`Memory`],
//! which RAM and all its relatives are made of, cannot be built without a host
//! address. [`PrivateMmio`] is built from a file alone and has no method that
//! returns an address.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use crate::AddrRange;

/// Whatever must stay alive for a piece of memory or a descriptor to stay
/// valid: a mapping, an owned file. The model only holds on to it.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// A piece of the host's (the VMM process's) address space.
///
/// The address is plain data here: this crate never reads through it. Who
/// hands it to hardware or dereferences it states there, in an `unsafe` block,
/// why it is valid; the owner that travels with it keeps it so for as long as
/// any region, view or snapshot still names it.
#[derive(Clone)]
pub struct HostMemory {
    range: AddrRange,
    owner: Owner,
}

impl HostMemory {
    /// `size` bytes at host virtual address `address`, valid while `owner`
    /// lives; `None` if that is empty or wraps, or if `address` is null.
    ///
    /// Null is no host address: KVM takes a `userspace_addr` of 0 beside a
    /// guest_memfd for a memslot without one, and Linux lets no ordinary process
    /// map anything there (`vm.mmap_min_addr`).
    pub fn new<O: Any + Send + Sync>(address: u64, size: u64, owner: Arc<O>) -> Option<Self> {
        let range = AddrRange::new(address, size.into())?;
        (address != 0).then_some(Self { range, owner })
    }

    /// The host virtual address of the first byte.
    pub fn address(&self) -> u64 {
        self.range.start()
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        // Built from a `u64`, so it fits.
        u64::try_from(self.range.size()).unwrap_or(u64::MAX)
    }

    /// What keeps the address valid.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// `size` bytes from `offset` on; `None` if they do not all lie inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        let range = AddrRange::new(self.address().checked_add(offset)?, size.into())?;
        self.range.covers(range).then(|| Self {
            range,
            owner: self.owner.clone(),
        })
    }
}

/// Two pieces are equal when they are the same addresses.
impl PartialEq for HostMemory {
    fn eq(&self, other: &Self) -> bool {
        self.range == other.range
    }
}
impl Eq for HostMemory {}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({:?})", self.range)
    }
}

/// A slice of a file: a descriptor, an offset and a size.
///
/// The descriptor is a number because that is what the kernel's interfaces
/// take; the owner that travels with it keeps it open.
#[derive(Clone)]
pub struct FileSlice {
    fd: i32,
    range: AddrRange,
    owner: Owner,
}

impl FileSlice {
    /// `size` bytes from `offset` on of the file that `fd` names, which stays
    /// open while `owner` lives; `None` if that is empty or wraps.
    pub fn new<O: Any + Send + Sync>(
        fd: i32,
        offset: u64,
        size: u64,
        owner: Arc<O>,
    ) -> Option<Self> {
        Some(Self {
            fd,
            range: AddrRange::new(offset, size.into())?,
            owner,
        })
    }

    /// The file descriptor's number.
    pub fn fd(&self) -> i32 {
        self.fd
    }

    /// Where in the file the slice starts, in bytes.
    pub fn offset(&self) -> u64 {
        self.range.start()
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.range.size()).unwrap_or(u64::MAX)
    }

    /// What keeps the descriptor open.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// `size` bytes from `offset` (relative to this slice) on; `None` if they
    /// do not all lie inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        let range = AddrRange::new(self.offset().checked_add(offset)?, size.into())?;
        self.range.covers(range).then(|| Self {
            fd: self.fd,
            range,
            owner: self.owner.clone(),
        })
    }
}

/// Two slices are equal when they are the same bytes of the same descriptor.
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

/// Which of a RAM region's pages a guest_memfd holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMemfdSides {
    /// Only the private ones; shared pages are in the host memory beside it.
    Private,
    /// Only shared ones: the host memory is a mapping of this very file, and
    /// the guest has no private pages here.
    Shared,
    /// Both, in place: the host memory is a mapping of this very file, of
    /// which the host may touch the pages that are shared at the time.
    Both,
}

/// What RAM, ROM and ROM devices are made of: host memory, always, and
/// possibly a guest_memfd beside or beneath it.
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

    /// The host mapping. It always exists; while a page is private, touching
    /// it there may fault.
    pub fn host(&self) -> &HostMemory {
        &self.host
    }

    /// The guest_memfd and the pages that it holds, if there is one.
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
/// There is no method that returns a pointer or a host address, and nothing
/// that turns this into [`Memory`]:
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
    /// The registers that `file` (of a VFIO device: a dma-buf) stands for.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: u64, size: u64) -> HostMemory {
        HostMemory::new(address, size, Arc::new(())).unwrap()
    }

    #[test]
    fn memory_can_be_neither_empty_nor_wrap() {
        assert!(HostMemory::new(0x1000, 0, Arc::new(())).is_none());
        assert!(HostMemory::new(u64::MAX, 2, Arc::new(())).is_none());
        assert!(FileSlice::new(3, u64::MAX, 2, Arc::new(())).is_none());
    }

    #[test]
    fn null_is_no_host_address() {
        assert!(HostMemory::new(0, 0x1000, Arc::new(())).is_none());
        assert!(HostMemory::new(1, 0x1000, Arc::new(())).is_some());
    }

    #[test]
    fn a_slice_stays_inside_what_it_is_cut_from() {
        let memory = host(0x10_0000, 0x4000);
        assert_eq!(memory.slice(0x1000, 0x3000), Some(host(0x10_1000, 0x3000)));
        assert_eq!(memory.slice(0x1000, 0x3001), None);
        assert_eq!(memory.slice(u64::MAX, 1), None);
        assert_eq!(memory.slice(0, 0), None);
    }

    #[test]
    fn a_guest_memfd_must_be_as_large_as_its_host_mapping() {
        let file = FileSlice::new(3, 0, 0x2000, Arc::new(())).unwrap();
        let sides = GuestMemfdSides::Both;
        assert!(Memory::with_guest_memfd(host(0x1000, 0x1000), file.clone(), sides).is_none());
        let memory = Memory::with_guest_memfd(host(0x1000, 0x2000), file, sides).unwrap();
        let (half, _) = memory.slice(0x1000, 0x1000).unwrap().guest_memfd.unwrap();
        assert_eq!((half.offset(), half.size()), (0x1000, 0x1000));
    }

    #[test]
    fn the_owner_lives_as_long_as_any_slice() {
        let owner = Arc::new(());
        let slice = {
            let memory = HostMemory::new(0x1000, 0x1000, owner.clone()).unwrap();
            memory.slice(0, 1).unwrap()
        };
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(slice);
        assert_eq!(Arc::strong_count(&owner), 1);
    }
}
