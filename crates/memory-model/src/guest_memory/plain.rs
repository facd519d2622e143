// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The RAM of a view as a list of regions, for crates that require one.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use guest_ranges::{AddrRange, GuestMemfdSides, HostMemory};
use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    GuestMemoryRegionBytes, GuestMemoryResult, GuestUsize, MemoryRegionAddress, MmapRegion,
    VolatileMemory, VolatileSlice,
};

use super::shared::{not_in_mapping, offset_in, owner};
use crate::error::MappingError;
use crate::region::GuestAccess;
use crate::view::FlatView;
use crate::view::flat_range::{Backing, FlatRange};

/// The RAM of a view that never becomes private, as a [`GuestMemoryBackend`].
///
/// `linux-loader` and vhost-user front ends require a list of regions, without
/// permissions. This one has the RAM that the guest may write and that has no private
/// side: no guest_memfd, or one that holds only shared pages. Each region is a run of
/// the view and may be a part of a mapping.
///
/// A device takes a [`SharedMemory`](crate::SharedMemory) instead: it also has read-only
/// memory and shared pages of memory with a private side.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use memory_model::{HostMemory, Memory, MemoryModel, PlainMemory, Region};
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, MmapRegion};
///
/// let mapping = Arc::new(MmapRegion::<()>::new(0x4000)?);
/// let host = HostMemory::of_mmap(mapping).unwrap();
/// let mut model = MemoryModel::new();
/// let mut t = model.transaction();
/// let memory = t.add(Region::container("memory", 1 << 64))?;
/// let ram = t.add(Region::ram("ram", Memory::host_only(host)))?;
/// let registers = t.add(Region::mmio("registers", 0x1000))?;
/// t.place(ram, memory, 0, 0)?;
/// t.place(registers, memory, 0x1000, 1)?;
/// t.commit()?;
/// let space = model.add_space("memory", memory)?;
///
/// // The RAM before and behind the registers.
/// let plain = PlainMemory::<()>::new(&model.view(space))?;
/// assert_eq!(plain.num_regions(), 2);
/// plain.write_obj(7_u32, GuestAddress(0x2000))?;
/// assert!(plain.write_obj(7_u32, GuestAddress(0x1000)).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PlainMemory<B> {
    /// By address, without overlap.
    regions: Vec<PlainRegion<B>>,
}

/// A run of RAM, which is a part of a mapping.
pub struct PlainRegion<B> {
    range: AddrRange,
    mapping: Arc<MmapRegion<B>>,
    offset: usize,
    file: Option<FileOffset>,
}

impl<B: Bitmap + Send + Sync + 'static> PlainMemory<B> {
    /// The plain RAM of `view`, in which the owner of each [`HostMemory`] is the mapping
    /// itself.
    ///
    /// # Errors
    /// [`MappingError`] if an owner is not an [`MmapRegion<B>`], or the memory does not
    /// lie in it.
    pub fn new<H>(view: &FlatView<H>) -> Result<Self, MappingError> {
        let mut regions = Vec::new();
        for run in view.ranges() {
            if let Some(host) = plain(run) {
                regions.push(PlainRegion::new(run, &host)?);
            }
        }
        Ok(Self { regions })
    }
}

/// The host memory of a run, if it is plain RAM.
fn plain<H>(run: &FlatRange<H>) -> Option<HostMemory> {
    let (GuestAccess::ReadWrite, Backing::Memory(memory)) = (run.access(), run.backing()) else {
        return None;
    };
    match memory.guest_memfd() {
        None | Some((_, GuestMemfdSides::Shared)) => Some(memory.host().clone()),
        Some(_) => None,
    }
}

impl<B: Bitmap + Send + Sync + 'static> PlainRegion<B> {
    fn new<H>(run: &FlatRange<H>, host: &HostMemory) -> Result<Self, MappingError> {
        let mapping: Option<Arc<MmapRegion<B>>> = owner(run, host)?;
        let mapping = mapping.ok_or_else(|| not_in_mapping(run))?;
        let offset = offset_in(&*mapping, host).ok_or_else(|| not_in_mapping(run))?;
        let file = mapping.file_offset().and_then(|file| {
            let start = file.start().checked_add(u64::try_from(offset).ok()?)?;
            Some(FileOffset::from_arc(file.arc().clone(), start))
        });
        Ok(Self {
            range: run.range(),
            mapping,
            offset,
            file,
        })
    }
}

impl<B> PlainRegion<B> {
    /// Where `count` bytes are in the mapping, if they are in the region.
    fn within(&self, at: MemoryRegionAddress, count: usize) -> GuestMemoryResult<usize> {
        let end = u64::try_from(count).ok().and_then(|c| at.0.checked_add(c));
        let inside = end.is_some_and(|end| u128::from(end) <= self.range.size());
        let skip = usize::try_from(at.0).ok().filter(|_| inside);
        let offset = skip.and_then(|skip| self.offset.checked_add(skip));
        offset.ok_or(GuestMemoryError::InvalidBackendAddress)
    }
}

impl<B: Bitmap> GuestMemoryBackend for PlainMemory<B> {
    type R = PlainRegion<B>;

    fn num_regions(&self) -> usize {
        self.regions.len()
    }

    fn find_region(&self, addr: GuestAddress) -> Option<&Self::R> {
        let below = |region: &PlainRegion<B>| region.range.last() < addr.0;
        let region = self.regions.get(self.regions.partition_point(below))?;
        region.range.contains(addr.0).then_some(region)
    }

    fn iter(&self) -> impl Iterator<Item = &Self::R> {
        self.regions.iter()
    }
}

impl<B: Bitmap> GuestMemoryRegion for PlainRegion<B> {
    type B = B;

    fn len(&self) -> GuestUsize {
        // A mapping has less than 2^64 bytes.
        self.range.size_u64().unwrap_or(u64::MAX)
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.range.start())
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        self.mapping.bitmap().slice_at(self.offset)
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        let offset = self.within(addr, 1)?;
        Ok(self.mapping.as_ptr().wrapping_add(offset))
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, B>>> {
        let offset = self.within(offset, count)?;
        Ok(self.mapping.get_slice(offset, count)?)
    }

    #[cfg(target_os = "linux")]
    fn is_hugetlbfs(&self) -> Option<bool> {
        self.mapping.is_hugetlbfs()
    }
}

impl<B: Bitmap> GuestMemoryRegionBytes for PlainRegion<B> {}

impl<B> Clone for PlainRegion<B> {
    fn clone(&self) -> Self {
        Self {
            range: self.range,
            mapping: self.mapping.clone(),
            offset: self.offset,
            file: self.file.clone(),
        }
    }
}

impl<B> fmt::Debug for PlainRegion<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainRegion({:?})", self.range)
    }
}
