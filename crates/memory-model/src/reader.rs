// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Readers: how vCPU and device threads look up a view while it changes.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use arc_swap::{ArcSwap, Cache, Guard};

use crate::view::FlatView;

/// Reads the current view of one address space, from any thread. Reads are lock-free and
/// never see half of a change.
///
/// # Answering an exit
///
/// A vCPU thread looks up the addresses of an MMIO exit with
/// [`FlatView::access_parts`]. If the exit races with a change, the view may say that
/// the guest reaches the run directly, because its memory was just removed or has
/// been added since. The thread then makes the guest's access on the host mapping of
/// the memory, and marks the memory dirty if it is logged.
///
/// Private MMIO has no host mapping. A listener that adds or removes it holds the
/// vCPUs until the view is published, and waits until each vCPU that has just left
/// the guest has taken its view. `SlotListener` of the crate `kvm-slots` does so. An
/// access that still has no answer is one that KVM cannot emulate, or the rest of one
/// that KVM split in two. Answer it like an address where no region is.
///
/// ```
/// use memory_model::{AccessDirection, FlatView, Responder};
///
/// /// Carries out a store of the guest. `view` was taken as the vCPU left the
/// /// guest: `GatedVcpu::run_with(|| reader.snapshot())`.
/// fn store<H>(view: &FlatView<H>, gpa: u64, mut data: &[u8]) {
///     for part in view.access_parts(gpa, data.len(), AccessDirection::Write) {
///         let (bytes, rest) = data.split_at(part.size);
///         data = rest;
///         match part.responder {
///             Responder::Device { run, offset } => {
///                 println!("{} at {offset:#x}: {bytes:?}", run.region().name());
///             }
///             // The caller writes the bytes there, and marks them dirty.
///             Responder::Memory { .. } => println!("{:?}: {bytes:?}", part.host()),
///             // Stores that no one answers are dropped.
///             _ => {}
///         }
///     }
/// }
/// # use std::sync::Arc;
/// # use memory_model::{HostMemory, Memory, MemoryModel, Region};
/// # let mut model = MemoryModel::new();
/// # let mut t = model.transaction();
/// # let root = t.add(Region::container("bus", 1 << 32))?;
/// # // SAFETY: nothing is mapped there, and nothing accesses it.
/// # let host = unsafe { HostMemory::new(0x7000_0000, 0x1800, Arc::new(())) }.unwrap();
/// # let ram = t.add(Region::ram("ram", Memory::host_only(host)))?;
/// # t.place(ram, root, 0, 0)?;
/// # t.commit()?;
/// # let space = model.add_space("memory", root)?;
/// # let view = model.view(space);
/// # store(&view, 0x17fc, &[0; 8]);
/// # let parts = view.access_parts(0x17fc, 8, AccessDirection::Write);
/// # let found: Vec<_> = parts
/// #     .map(|part| (part.address, part.size, part.host().map(|host| host.address())))
/// #     .collect();
/// # assert_eq!(found, [(0x17fc, 4, Some(0x7000_17fc)), (0x1800, 4, None)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ViewReader<H> {
    current: Arc<ArcSwap<FlatView<H>>>,
}

impl<H> ViewReader<H> {
    pub(crate) fn new(view: Arc<FlatView<H>>) -> Self {
        Self {
            current: Arc::new(ArcSwap::new(view)),
        }
    }

    /// The current view. The returned view does not change when another is
    /// committed. Hold it for one access, not for long.
    pub fn view(&self) -> ViewGuard<H> {
        ViewGuard(self.current.load())
    }

    /// The current view, to keep for any time.
    pub fn snapshot(&self) -> Arc<FlatView<H>> {
        self.current.load_full()
    }

    /// A reader for one thread that looks addresses up often.
    pub fn for_thread(&self) -> ThreadReader<H> {
        ThreadReader {
            cache: Cache::new(self.current.clone()),
        }
    }

    pub(crate) fn publish(&self, view: Arc<FlatView<H>>) {
        self.current.store(view);
    }
}

impl<H> Clone for ViewReader<H> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
        }
    }
}

/// A view that is being read.
#[derive(Debug)]
pub struct ViewGuard<H>(Guard<Arc<FlatView<H>>>);

impl<H> Deref for ViewGuard<H> {
    type Target = FlatView<H>;

    fn deref(&self) -> &FlatView<H> {
        &self.0
    }
}

/// Reads the current view for one thread. While the view does not change, a read
/// costs only the check for a newer one.
///
/// The reader keeps the latest view that it has seen alive, with everything that
/// the view shows, until the next read or until it is dropped.
pub struct ThreadReader<H> {
    cache: Cache<Arc<ArcSwap<FlatView<H>>>, Arc<FlatView<H>>>,
}

impl<H> ThreadReader<H> {
    /// The current view.
    #[inline]
    pub fn view(&mut self) -> &FlatView<H> {
        self.cache.load()
    }
}

impl<H> fmt::Debug for ThreadReader<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ThreadReader")
    }
}
