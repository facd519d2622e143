// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The address spaces of a model: views, listeners and page states.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr;

use guest_ranges::{AddrRange, PageSet};

use crate::diff::Diff;
use crate::error::{CommitError, NoSuchSpace};
use crate::ids::{RegionId, SpaceId};
use crate::listener::Listener;
use crate::reader::ViewReader;
use crate::render::update::updated_view;
use crate::render::{MAX_VISITS, TooComplex};
use crate::tree::Tree;
use crate::view::FlatView;
use crate::view::pool::Pool;

/// The default [limit](crate::MemoryModel::set_state_limit), in bytes, for the state
/// of an address space's [private pages](crate::MemoryModel::private): enough for any
/// choice of pages in 7 TiB of addresses.
pub const DEFAULT_STATE_LIMIT: usize = 256 << 20;

/// One address space: its root, its current view, its listeners, and the state of
/// its pages.
pub(crate) struct Space<H> {
    pub(crate) id: SpaceId,
    pub(crate) name: String,
    pub(crate) root: RegionId,
    /// The view that readers see.
    pub(crate) view: Arc<FlatView<H>>,
    pub(crate) reader: ViewReader<H>,
    /// By priority, the lowest first; among equals, the earliest first.
    pub(crate) listeners: Vec<(i32, Arc<dyn Listener<H>>)>,
    pub(crate) accepted: PageSet,
    pub(crate) private: PageSet,
    /// The most bytes that `private` may take.
    pub(crate) state_limit: usize,
}

impl<H> fmt::Debug for Space<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({:?}, root {:?})", self.name, self.root)
    }
}

impl<H> Space<H> {
    /// The index of a listener among those of the space.
    pub(crate) fn position_of<L: ?Sized>(&self, listener: &Arc<L>) -> Option<usize> {
        let mut all = self.listeners.iter();
        all.position(|(_, other)| ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(listener)))
    }

    /// Publishes another view to readers.
    pub(crate) fn publish(&mut self, view: &Arc<FlatView<H>>) {
        self.reader.publish(view.clone());
        self.view = view.clone();
    }

    /// The view that replaces `old`, which is correct outside of `windows`. Adds the
    /// differences to `diff`.
    pub(crate) fn updated_view(
        &self,
        tree: &Tree<H>,
        old: &Arc<FlatView<H>>,
        windows: &[AddrRange],
        diff: &mut Diff<H>,
        pool: &mut Pool<H>,
    ) -> Result<Arc<FlatView<H>>, CommitError> {
        let new = updated_view(tree, self.root, old, windows, diff, pool);
        new.map_err(|TooComplex| CommitError::TooComplex {
            space: self.name.clone(),
            limit: MAX_VISITS,
        })
    }

    /// Checks invariant 3: accepted pages do not change. A run is mapped as a whole,
    /// so a run with an accepted byte must stay whole: a listener that cuts or extends
    /// it would have to unmap the accepted byte meanwhile.
    #[inline]
    pub(crate) fn accepted_stays(&self, diff: &Diff<H>) -> Result<(), CommitError> {
        if self.accepted.is_empty() {
            return Ok(());
        }
        let changed = diff.changed.iter().map(|(old, _)| old);
        for run in diff.removed.iter().chain(changed) {
            if let Some(range) = self.accepted.within(run.range()).next() {
                let region = run.region().name().into();
                return Err(CommitError::Accepted { range, region });
            }
        }
        Ok(())
    }
}

/// The address spaces of a model, in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Spaces<H>(Vec<Space<H>>);

impl<H> Default for Spaces<H> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<H> Spaces<H> {
    /// The position of a space.
    pub(crate) fn position(&self, id: SpaceId) -> Result<usize, NoSuchSpace> {
        let position = self.0.binary_search_by_key(&id, |space| space.id);
        position.map_err(|_| NoSuchSpace(id))
    }

    pub(crate) fn get(&self, id: SpaceId) -> Result<&Space<H>, NoSuchSpace> {
        Ok(&self.0[self.position(id)?])
    }

    pub(crate) fn get_mut(&mut self, id: SpaceId) -> Result<&mut Space<H>, NoSuchSpace> {
        let position = self.position(id)?;
        Ok(&mut self.0[position])
    }

    /// Adds a space, whose id is higher than all others.
    pub(crate) fn push(&mut self, space: Space<H>) {
        self.0.push(space);
    }

    pub(crate) fn remove(&mut self, position: usize) -> Space<H> {
        self.0.remove(position)
    }

    pub(crate) fn iter(&self) -> core::slice::Iter<'_, Space<H>> {
        self.0.iter()
    }
}

impl<H> core::ops::Index<usize> for Spaces<H> {
    type Output = Space<H>;

    #[inline]
    fn index(&self, position: usize) -> &Space<H> {
        &self.0[position]
    }
}

impl<H> core::ops::IndexMut<usize> for Spaces<H> {
    #[inline]
    fn index_mut(&mut self, position: usize) -> &mut Space<H> {
        &mut self.0[position]
    }
}

/// Unwraps a space. An invalid id panics, as an invalid index does.
#[track_caller]
pub(crate) fn known<T>(space: Result<T, NoSuchSpace>) -> T {
    match space {
        Ok(space) => space,
        Err(unknown) => panic!("{unknown}"),
    }
}
