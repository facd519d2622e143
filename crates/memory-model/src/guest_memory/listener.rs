// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps the guest memory of devices in sync with a view.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_ranges::{AddrRange, HostMemory, PageSet, PageState};
use vm_memory::{GuestMemoryAtomic, VolatileMemory};

use super::private_pages::PrivatePages;
use super::shared::{SharedMemory, owner};
use crate::diff::Diff;
use crate::error::{ListenerError, MappingError, StateError};
use crate::listener::{Listener, Update};
use crate::view::flat_range::{Backing, FlatRange};

type FindMapping<M, H> =
    dyn Fn(&FlatRange<H>, &HostMemory) -> Result<Option<Arc<M>>, MappingError> + Send + Sync;

/// Keeps a [`GuestMemoryAtomic`] in sync with the view of one address space.
///
/// Devices take the [`memory`](Self::memory), a [`vm_memory::GuestAddressSpace`], and
/// load a snapshot of it for each request. What they reach is the table of
/// [`SharedMemory`].
///
/// A commit publishes a new snapshot right after its view. A commit that changes no
/// memory with a host address, such as a move of a device's registers, publishes none.
///
/// Conversions do not go through a commit. The conversion engine of the crate
/// `kvm-slots` takes this type as a listener (its feature `vm-memory`). Other VMMs call
/// [`set_page_state`](Self::set_page_state). All snapshots follow at once, also those
/// that a device holds.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use memory_model::{HostMemory, Memory, MemoryModel, Region, SharedMemoryListener};
/// use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, MmapRegion};
///
/// let mut model = MemoryModel::new();
/// let mut t = model.transaction();
/// let memory = t.add(Region::container("memory", 1 << 64))?;
/// t.commit()?;
/// let space = model.add_space("memory", memory)?;
/// let listener = Arc::new(SharedMemoryListener::<MmapRegion, ()>::of_owners());
/// model.add_listener(space, 0, listener.clone())?;
/// // Each device gets a clone.
/// let devices = listener.memory();
///
/// // The VMM plugs memory.
/// let mapping = Arc::new(MmapRegion::<()>::new(0x4000)?);
/// let host = HostMemory::of_mmap(mapping).unwrap();
/// let mut t = model.transaction();
/// let ram = t.add(Region::ram("ram", Memory::host_only(host)))?;
/// t.place(ram, memory, 0x1000, 0)?;
/// assert!(devices.memory().read_obj::<u32>(GuestAddress(0x1000)).is_err());
/// t.commit()?;
/// assert_eq!(devices.memory().read_obj::<u32>(GuestAddress(0x1000))?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedMemoryListener<M: VolatileMemory, H> {
    memory: GuestMemoryAtomic<SharedMemory<M>>,
    private: Arc<PrivatePages>,
    find_mapping: Box<FindMapping<M, H>>,
    /// What the change that is being prepared leads to, if it affects devices.
    prepared: Mutex<Option<SharedMemory<M>>>,
}

impl<M: VolatileMemory, H> SharedMemoryListener<M, H> {
    /// Of memory whose mapping `mapping_of` finds, as for [`SharedMemory::new`].
    pub fn new(
        mapping_of: impl Fn(&FlatRange<H>) -> Option<Arc<M>> + Send + Sync + 'static,
    ) -> Self {
        Self::with(Box::new(move |run, _| Ok(mapping_of(run))))
    }

    /// Of memory whose owner is the mapping, as for [`SharedMemory::of_owners`].
    pub fn of_owners() -> Self
    where
        M: Any + Send + Sync,
        H: 'static,
    {
        Self::with(Box::new(owner))
    }

    fn with(find_mapping: Box<FindMapping<M, H>>) -> Self {
        let private = Arc::new(PrivatePages::default());
        Self {
            memory: GuestMemoryAtomic::new(SharedMemory::empty(private.clone())),
            private,
            find_mapping,
            prepared: Mutex::default(),
        }
    }

    /// The memory, for devices. It is empty until the listener is added to a model.
    pub fn memory(&self) -> GuestMemoryAtomic<SharedMemory<M>> {
        self.memory.clone()
    }

    /// Updates the state of pages for all snapshots, as
    /// [`SharedMemory::set_page_state`] does.
    ///
    /// # Errors
    /// [`StateError::Unaligned`].
    pub fn set_page_state(&self, range: AddrRange, state: PageState) -> Result<(), StateError> {
        self.private.set(range, state)
    }

    /// Replaces the state of all pages. Call it after page states were changed with
    /// [`MemoryModel`](crate::MemoryModel) directly.
    pub fn resync(&self, private: &PageSet) {
        self.private.replace(private.clone());
    }

    fn prepared(&self) -> MutexGuard<'_, Option<SharedMemory<M>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M, H> Listener<H> for SharedMemoryListener<M, H>
where
    M: VolatileMemory + Send + Sync,
    H: Send + Sync,
{
    fn name(&self) -> &str {
        "guest memory of devices"
    }

    /// # Errors
    /// [`MappingError`].
    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        *self.prepared() = match has_memory(update.diff) {
            true => {
                let private = self.private.clone();
                let built = SharedMemory::build(update.new, private, &self.find_mapping);
                Some(built?)
            }
            false => None,
        };
        Ok(())
    }

    fn commit(&self, update: &Update<'_, H>) {
        if update.old.ranges().next().is_none() {
            // The listener may be new: it has seen no conversion.
            self.private.replace(update.private.clone());
        }
        if let Some(memory) = self.prepared().take() {
            let guard = self.memory.lock();
            guard
                .unwrap_or_else(PoisonError::into_inner)
                .replace(memory);
        }
    }

    fn abort(&self, _: &Update<'_, H>) -> Result<(), ListenerError> {
        *self.prepared() = None;
        Ok(())
    }
}

/// Whether a change affects memory that devices may access.
fn has_memory<H>(diff: &Diff<H>) -> bool {
    let changed = diff.changed.iter().flat_map(|(old, new)| [old, new]);
    let mut all = diff.removed.iter().chain(&diff.added).chain(changed);
    all.any(|run| matches!(run.backing(), Backing::Memory(_)))
}

impl<M: VolatileMemory, H> fmt::Debug for SharedMemoryListener<M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemoryListener")
            .field("private", &self.private)
            .finish_non_exhaustive()
    }
}
