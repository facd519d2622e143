// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How vCPU and device threads read a view while others change it.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use arc_swap::{ArcSwap, Cache, Guard};

use crate::FlatView;

/// Reads the current view of one address space, from any thread, without a
/// lock: a reader never waits, and never sees half of a change.
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
