// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of a view that devices may access.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::iter::FusedIterator;
use core::slice;
use std::io;

use guest_ranges::{AddrRange, HostMemory, PageSet, PageState};
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestMemoryResult, GuestRegionCollection, GuestUsize, Permissions, VolatileMemory,
    VolatileSlice,
};

use super::private_pages::PrivatePages;
use crate::error::{MappingError, StateError};
use crate::view::FlatView;
use crate::view::flat_range::{Backing, FlatRange};

/// The memory of a view that a device emulated in the VMM may access: memory that
/// has a host address and is shared.
///
/// It implements [`GuestMemory`], and through it [`Bytes`](vm_memory::Bytes), which
/// virtio queues and devices use. `M` is the type of the mappings behind it, such as
/// `vm_memory::MmapRegion`. `vm-memory` reads and writes through the slices of these
/// mappings. This crate creates no slices.
///
/// | memory | reads | writes |
/// | --- | --- | --- |
/// | RAM | yes | yes |
/// | RAM that is read-only for the guest, ROM | yes | refused |
/// | ROM device with direct reads | yes | refused |
/// | ROM device without direct reads | refused | refused |
/// | private pages of any of these | refused | refused |
/// | device RAM | refused | refused |
/// | private MMIO, trapped MMIO, nothing | refused | refused |
///
/// # All or nothing
///
/// An access with one refused byte is an error *before* anything is read or written.
/// `read`, `write` and their volatile variants never stop short at a border, as they
/// do with the regions of `vm-memory`. Accesses of zero bytes always succeed. The
/// error is [`GuestMemoryError::InvalidGuestAddress`] with an unreachable address,
/// [`GuestMemoryError::IOError`] of the kind `PermissionDenied` for a write to
/// read-only memory, or [`GuestMemoryError::GuestAddressOverflow`] for an access that
/// ends past 2^64.
///
/// No list of regions bypasses this:
/// [`physical_memory`](GuestMemory::physical_memory) is `None`.
///
/// # A snapshot
///
/// A `SharedMemory` is a snapshot of a view. After a commit, make a new one, or have a
/// [`SharedMemoryListener`](crate::SharedMemoryListener) do so.
///
/// The state of pages is not a part of the snapshot: all clones share it. After a
/// conversion, update it with [`set_page_state`](Self::set_page_state), before the guest
/// is notified. Let devices finish with the slices that they hold: a slice still reaches
/// its bytes.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use memory_model::{HostMemory, Memory, MemoryModel, Region, SharedMemory};
/// use vm_memory::{Bytes, GuestAddress, MmapRegion};
///
/// // The mapping is the owner of the host memory.
/// let mapping = Arc::new(MmapRegion::<()>::new(0x4000)?);
/// let host = HostMemory::of_mmap(mapping).unwrap();
///
/// let mut model = MemoryModel::new();
/// let mut t = model.transaction();
/// let memory = t.add(Region::container("memory", 1 << 64))?;
/// let ram = t.add(Region::ram("ram", Memory::host_only(host)))?;
/// t.place(ram, memory, 0x1000, 0)?;
/// t.commit()?;
/// let space = model.add_space("memory", memory)?;
///
/// let view = model.view(space);
/// let shared = SharedMemory::<MmapRegion>::of_owners(&view, model.private(space))?;
/// shared.write_obj(7_u32, GuestAddress(0x4ffc))?;
/// assert_eq!(shared.read_obj::<u32>(GuestAddress(0x4ffc))?, 7);
/// // Two of these bytes are memory and two are not: an error, not a short read.
/// assert!(shared.read(&mut [0; 4], GuestAddress(0x4ffe)).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedMemory<M> {
    /// By address, without overlap.
    pieces: Vec<Piece<M>>,
    private: Arc<PrivatePages>,
}

/// A run of addresses, and where they are in a mapping.
struct Piece<M> {
    range: AddrRange,
    writable: bool,
    mapping: Arc<M>,
    offset: usize,
}

impl<M: VolatileMemory> SharedMemory<M> {
    /// The memory of `view`, without the pages in `private`. For each run that has
    /// host memory and direct reads, `mapping_of` returns the mapping that contains
    /// the memory, or `None` to leave the run out.
    ///
    /// # Errors
    /// [`MappingError`] if the memory does not lie in the mapping.
    pub fn new<H>(
        view: &FlatView<H>,
        private: &PageSet,
        mut mapping_of: impl FnMut(&FlatRange<H>) -> Option<Arc<M>>,
    ) -> Result<Self, MappingError> {
        let private = Arc::new(PrivatePages::new(private.clone()));
        Self::build(view, private, |run, _| Ok(mapping_of(run)))
    }

    /// As [`new`](Self::new), for a model in which the owner of every
    /// [`HostMemory`] is the mapping itself.
    ///
    /// # Errors
    /// [`MappingError`] if an owner is not of type `M`, or the memory does not
    /// lie in it.
    pub fn of_owners<H>(view: &FlatView<H>, private: &PageSet) -> Result<Self, MappingError>
    where
        M: Any + Send + Sync,
    {
        let private = Arc::new(PrivatePages::new(private.clone()));
        Self::build(view, private, owner)
    }

    pub(super) fn build<H>(
        view: &FlatView<H>,
        private: Arc<PrivatePages>,
        mut mapping_of: impl FnMut(&FlatRange<H>, &HostMemory) -> Result<Option<Arc<M>>, MappingError>,
    ) -> Result<Self, MappingError> {
        let mut pieces = Vec::new();
        for run in view.ranges().filter(|run| run.access().reads_directly()) {
            let Backing::Memory(memory) = run.backing() else {
                continue;
            };
            if let Some(mapping) = mapping_of(run, memory.host())? {
                let offset = offset_in(&*mapping, memory.host());
                pieces.push(Piece {
                    range: run.range(),
                    writable: run.access().writes_directly(),
                    mapping,
                    offset: offset.ok_or_else(|| not_in_mapping(run))?,
                });
            }
        }
        Ok(Self { pieces, private })
    }
}

impl<M> SharedMemory<M> {
    /// Memory without a byte.
    pub(super) fn empty(private: Arc<PrivatePages>) -> Self {
        let pieces = Vec::new();
        Self { pieces, private }
    }

    /// Updates the state of pages, for this value and its clones. Private pages are
    /// unreachable. Shared pages are reachable if their kind allows it.
    ///
    /// # Errors
    /// [`StateError::Unaligned`].
    pub fn set_page_state(&self, range: AddrRange, state: PageState) -> Result<(), StateError> {
        self.private.set(range, state)
    }

    /// The slices of these bytes, if `access` is allowed to all of them.
    fn reach(
        &self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<Slices<'_, M>> {
        if count == 0 {
            let (left, pieces) = (None, [].iter());
            return Ok(Slices { left, pieces });
        }
        let range = AddrRange::new(address.0, count as u128);
        let range = range.ok_or(GuestMemoryError::GuestAddressOverflow)?;
        let unreachable = |at| GuestMemoryError::InvalidGuestAddress(GuestAddress(at));
        if let Some(private) = self.private.first_in(range) {
            return Err(unreachable(private));
        }
        let below = |piece: &Piece<M>| piece.range.last() < range.start();
        let pieces = &self.pieces[self.pieces.partition_point(below)..];
        let mut at = range.start();
        for piece in pieces {
            if !piece.range.contains(at) {
                break;
            }
            if access.has_write() && !piece.writable {
                let refused = io::Error::from(io::ErrorKind::PermissionDenied);
                return Err(GuestMemoryError::IOError(refused));
            }
            match piece.range.last().checked_add(1) {
                Some(next) if next <= range.last() => at = next,
                _ => {
                    let (left, pieces) = (Some(range), pieces.iter());
                    return Ok(Slices { left, pieces });
                }
            }
        }
        Err(unreachable(at))
    }
}

impl<M: VolatileMemory> GuestMemory for SharedMemory<M> {
    type PhysicalMemory = GuestRegionCollection<NoRegion>;
    type Bitmap = M::B;

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        self.reach(addr, count, access).is_ok()
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        self.reach(addr, count, access)
    }
}

/// The slices of an access that is allowed as a whole.
struct Slices<'a, M> {
    left: Option<AddrRange>,
    pieces: slice::Iter<'a, Piece<M>>,
}

impl<'a, M: VolatileMemory> Iterator for Slices<'a, M> {
    type Item = GuestMemoryResult<VolatileSlice<'a, BS<'a, M::B>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left.take()?;
        let piece = self.pieces.next()?;
        let part = piece.range.intersect(left)?;
        let slice = piece.slice(part);
        if slice.is_ok() {
            let next = part.last().checked_add(1);
            self.left = next.and_then(|next| AddrRange::from_bounds(next, left.last()));
        }
        Some(slice)
    }
}

impl<M: VolatileMemory> FusedIterator for Slices<'_, M> {}

impl<'a, M: VolatileMemory> GuestMemorySliceIterator<'a, BS<'a, M::B>> for Slices<'a, M> {}

impl<M: VolatileMemory> Piece<M> {
    /// The bytes at `part`, which lies inside.
    fn slice(&self, part: AddrRange) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, M::B>>> {
        let skip = usize::try_from(part.start() - self.range.start());
        let offset = skip.ok().and_then(|skip| self.offset.checked_add(skip));
        let size = usize::try_from(part.size()).ok();
        let (Some(offset), Some(size)) = (offset, size) else {
            return Err(GuestMemoryError::InvalidBackendAddress);
        };
        Ok(self.mapping.get_slice(offset, size)?)
    }
}

/// The owner of the host memory, which is the mapping.
pub(super) fn owner<H, M: Any + Send + Sync>(
    run: &FlatRange<H>,
    host: &HostMemory,
) -> Result<Option<Arc<M>>, MappingError> {
    let owner = host.owner().clone().downcast();
    owner.map(Some).map_err(|_| not_in_mapping(run))
}

/// Where in the mapping the memory is, if all of it is.
pub(super) fn offset_in(mapping: &impl VolatileMemory, host: &HostMemory) -> Option<usize> {
    let all = mapping.get_slice(0, mapping.len()).ok()?;
    let address = usize::try_from(host.address()).ok()?;
    let offset = address.checked_sub(all.ptr_guard().as_ptr().addr())?;
    let end = offset.checked_add(usize::try_from(host.size()).ok()?)?;
    (end <= all.len()).then_some(offset)
}

pub(super) fn not_in_mapping<H>(run: &FlatRange<H>) -> MappingError {
    MappingError {
        range: run.range(),
        region: run.region().name().into(),
    }
}

impl<M> Clone for Piece<M> {
    fn clone(&self) -> Self {
        let mapping = self.mapping.clone();
        Self { mapping, ..*self }
    }
}

impl<M> Clone for SharedMemory<M> {
    fn clone(&self) -> Self {
        Self {
            pieces: self.pieces.clone(),
            private: self.private.clone(),
        }
    }
}

impl<M> fmt::Debug for SharedMemory<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<_> = self.pieces.iter().map(|piece| piece.range).collect();
        f.debug_struct("SharedMemory")
            .field("ranges", &ranges)
            .field("private", &self.private)
            .finish()
    }
}

/// The region type of [`SharedMemory`], which has no list of regions: a type without
/// values.
#[derive(Debug)]
pub enum NoRegion {}

impl GuestMemoryRegion for NoRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        match *self {}
    }

    fn start_addr(&self) -> GuestAddress {
        match *self {}
    }

    fn bitmap(&self) {}
}

impl GuestMemoryRegionBytes for NoRegion {}
