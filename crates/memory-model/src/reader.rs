// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How vCPU and device threads read a view while others change it.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use arc_swap::{ArcSwap, Cache, Guard};

use crate::FlatView;

/// Reads the current view of one address space, from any thread, without a
/// lock: a reader never waits, and never sees half of a change.
///
/// # Answering an exit
///
/// A vCPU thread looks up the address of an MMIO exit. It may meet a change: its
/// view calls the run direct, because the memory has just gone, or has come since
/// the exit. The thread then does what the guest would have done, the access on
/// the memory's host mapping. Private MMIO has none. There, the region is being
/// removed, and the next view, which is about to be published, has the answer.
///
/// That private MMIO has not come since the exit, is up to the listener
/// that makes the change: it holds the vCPUs, and waits for each that has left the
/// guest to take its view. `SlotListener` of the crate `kvm-slots` does so.
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use memory_model::{AddrRange, FlatRange, FlatView, ViewReader};
///
/// /// Who answers an access of the guest.
/// enum Answer<H> {
///     /// The bus: the access is trapped by this run, or nothing is there.
///     Bus(Option<FlatRange<H>>),
///     /// The memory at this host address.
///     Memory(u64),
/// }
///
/// /// Looks up an MMIO exit at `gpa`. `view` was taken as the vCPU left the
/// /// guest, with `GatedVcpu::run_with(|| reader.snapshot())`.
/// fn look_up<H>(
///     mut view: Arc<FlatView<H>>,
///     reader: &ViewReader<H>,
///     gpa: u64,
///     write: bool,
/// ) -> Option<Answer<H>> {
///     let patience = Instant::now() + Duration::from_secs(1);
///     loop {
///         let Some(run) = view.find(gpa) else {
///             return Some(Answer::Bus(None));
///         };
///         let access = run.access();
///         let direct = if write { access.writes_directly() } else { access.reads_directly() };
///         if !direct {
///             return Some(Answer::Bus(Some(run.clone())));
///         }
///         let memory = run.backing_of(AddrRange::from_bounds(gpa, gpa)?)?;
///         if let Some(host) = memory.host() {
///             return Some(Answer::Memory(host.address()));
///         }
///         if Instant::now() > patience {
///             // No one removes it: KVM could not emulate the instruction.
///             return None;
///         }
///         std::thread::yield_now();
///         view = reader.snapshot();
///     }
/// }
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

    /// The view as it is now. What is returned stays as it is, whatever is
    /// committed meanwhile; hold it for one access, not for long.
    pub fn view(&self) -> ViewGuard<H> {
        ViewGuard(self.current.load())
    }

    /// The view as it is now, to keep for as long as one likes.
    pub fn snapshot(&self) -> Arc<FlatView<H>> {
        self.current.load_full()
    }

    /// A reader for one thread that looks addresses up all the time.
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

/// Reads the current view for one thread: it looks whether there is a newer
/// view, and that is all that it costs as long as there is none.
///
/// It keeps the latest view that it has seen alive, and all that this shows,
/// until it is asked again or dropped.
pub struct ThreadReader<H> {
    cache: Cache<Arc<ArcSwap<FlatView<H>>>, Arc<FlatView<H>>>,
}

impl<H> ThreadReader<H> {
    /// The view as it is now.
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
