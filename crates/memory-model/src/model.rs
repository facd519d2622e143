// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model: one region tree, and the address spaces that show parts of it.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_ranges::{AddrRange, PageSet};
use smallvec::SmallVec;

use crate::attachments::IoEventFd;
use crate::attachments::active::AttachmentDiff;
use crate::diff::Diff;
use crate::error::{
    AddListenerError, AddSpaceError, CommitError, RemoveListenerError, RemoveSpaceError,
};
use crate::ids::RegionId;
use crate::ids::{ModelId, SpaceId, SpaceIds};
use crate::listener::Listener;
use crate::logging::DirtyClients;
use crate::reader::ViewReader;
use crate::space::{DEFAULT_STATE_LIMIT, Space, Spaces, known};
use crate::transaction::change::Change;
use crate::transaction::undo::Undo;
use crate::tree::Tree;
use crate::view::FlatView;
use crate::view::pool::Pool;

/// A region tree, and the address spaces rooted in it. `H` is the type of the
/// caller's handles: each region has one, and lookups return it.
///
/// A [`Transaction`](crate::Transaction) changes the model. Readers on other threads
/// use a [`ViewReader`].
///
/// # Ids
///
/// A [`RegionId`] or [`SpaceId`] is invalid once it is removed, and in any other
/// model. Methods that return a `Result` then return an error. Other methods that take
/// a space's id panic, as indexing does. [`spaces`](Self::spaces) lists the valid
/// spaces.
#[derive(Debug)]
pub struct MemoryModel<H = ()> {
    pub(crate) tree: Tree<H>,
    pub(crate) spaces: Spaces<H>,
    space_ids: SpaceIds,
    /// What undoes the steps of the current transaction, the latest step last.
    /// The model owns it so that it outlives a forgotten transaction.
    pub(crate) undo: SmallVec<[Undo<H>; 2]>,
    /// An empty diff whose allocations the next commit reuses.
    pub(crate) spare: Diff<H>,
    /// Nodes that the next view reuses.
    pub(crate) pool: Pool<H>,
}

impl<H> Default for MemoryModel<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> MemoryModel<H> {
    /// A model without regions and without address spaces.
    pub fn new() -> Self {
        let id = ModelId::next();
        Self {
            tree: Tree::new(id),
            spaces: Spaces::default(),
            space_ids: SpaceIds::of(id),
            undo: SmallVec::new(),
            spare: Diff::default(),
            pool: Pool::default(),
        }
    }

    /// The region tree.
    pub fn tree(&self) -> &Tree<H> {
        &self.tree
    }

    /// Undoes the steps of a transaction that was forgotten.
    #[inline]
    pub(crate) fn undo_forgotten(&mut self) {
        if !self.undo.is_empty() {
            self.roll_back_to(0);
        }
    }

    /// Undoes the latest steps, all but the first `steps`.
    #[cold]
    pub(crate) fn roll_back_to(&mut self, steps: usize) {
        while self.undo.len() > steps {
            if let Some(step) = self.undo.pop() {
                step.undo(&mut self.tree);
            }
        }
    }

    /// Adds an address space that shows `root` at address 0.
    ///
    /// # Errors
    /// [`AddSpaceError::Tree`] if there is no such region;
    /// [`AddSpaceError::Render`] with [`CommitError::TooComplex`].
    pub fn add_space(&mut self, name: &str, root: RegionId) -> Result<SpaceId, AddSpaceError> {
        self.undo_forgotten();
        self.tree.node(root)?;
        let nothing = Arc::new(FlatView::empty());
        let id = self.space_ids.next();
        let mut space = Space {
            id,
            name: name.to_string(),
            root,
            reader: ViewReader::new(nothing.clone()),
            view: nothing.clone(),
            listeners: Vec::new(),
            accepted: PageSet::new(),
            private: PageSet::new(),
            state_limit: DEFAULT_STATE_LIMIT,
        };
        let mut diff = Diff::default();
        let all = [AddrRange::ALL];
        let view = space.updated_view(&self.tree, &nothing, &all, &mut diff, &mut self.pool)?;
        space.publish(&view);
        self.tree.add_space(root, id)?;
        self.spaces.push(space);
        Ok(id)
    }

    /// Removes an address space that no listener follows, such as the one that an
    /// unplugged device saw. Its root region stays in the tree.
    ///
    /// Remaining [`ViewReader`]s of the space find no region from now on. Views
    /// and snapshots taken earlier do not change, and keep alive what they show.
    /// The state of the space's pages is dropped.
    ///
    /// Listeners are not removed with the space, because each may refuse. If one did
    /// after others had been removed, the space would be left with some of them.
    ///
    /// # Errors
    /// [`RemoveSpaceError::InUse`] while the space has listeners. Remove each with
    /// [`remove_listener`](Self::remove_listener), which it may refuse.
    /// [`RemoveSpaceError::Commit`] with [`CommitError::Accepted`] while the guest
    /// has accepted pages of the space. [`RemoveSpaceError::NoSuchSpace`].
    pub fn remove_space(&mut self, space: SpaceId) -> Result<(), RemoveSpaceError> {
        self.undo_forgotten();
        let position = self.spaces.position(space)?;
        let it = &self.spaces[position];
        if let Some((_, listener)) = it.listeners.first() {
            return Err(RemoveSpaceError::InUse {
                space: it.name.clone(),
                listener: listener.name().to_string(),
            });
        }
        let nothing = Arc::new(FlatView::empty());
        it.accepted_stays(&Diff::between(&it.view, &nothing))?;
        let mut it = self.spaces.remove(position);
        self.tree.remove_space(it.root, space);
        it.publish(&nothing);
        Ok(())
    }

    /// Adds a listener to `space`. The listener first gets a change from nothing
    /// to the current view.
    ///
    /// A listener follows one space. To follow several spaces with the same code,
    /// add a listener for each.
    ///
    /// # Errors
    /// [`AddListenerError`]. The listener is not added then. An error of its
    /// [`abort`](Listener::abort) is not reported; a [`Follower`](crate::Follower) that
    /// could not roll back needs a resync.
    pub fn add_listener(
        &mut self,
        space: SpaceId,
        priority: i32,
        listener: Arc<dyn Listener<H>>,
    ) -> Result<(), AddListenerError> {
        self.undo_forgotten();
        let position = self.spaces.position(space)?;
        // A listener of two spaces would keep one state for both, and undoing a
        // change of one space would lose a change of the other.
        let mut spaces = self.spaces.iter();
        if let Some(followed) = spaces.find(|space| space.position_of(&listener).is_some()) {
            return Err(AddListenerError::Follows {
                listener: listener.name().to_string(),
                space: followed.name.clone(),
            });
        }
        let change = Change::from_nothing(&self.tree, &self.spaces, position);
        if change.is_something() {
            let made = change.apply_to(&self.spaces, &*listener);
            made.map_err(|source| AddListenerError::Refused {
                listener: listener.name().to_string(),
                space: self.spaces[position].name.clone(),
                source,
            })?;
            listener.commit(&change.update(&self.spaces));
        }
        let listeners = &mut self.spaces[position].listeners;
        let position = listeners.partition_point(|(p, _)| *p <= priority);
        listeners.insert(position, (priority, listener));
        Ok(())
    }

    /// Removes a listener from `space`. The listener last gets a change from the
    /// current view to nothing, so that it unmaps what it has mapped. Readers and
    /// other listeners are not affected.
    ///
    /// When a device is unplugged, its mappings are removed:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use memory_model::{Listener, ListenerError, MemoryModel, Region, Update};
    /// /// What a device reaches by DMA.
    /// struct Mappings;
    ///
    /// impl Listener<()> for Mappings {
    ///     // …
    /// #   fn name(&self) -> &str { "DMA" }
    /// #   fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> { Ok(()) }
    /// }
    ///
    /// # let mut model = MemoryModel::new();
    /// # let mut t = model.transaction();
    /// # let root = t.add(Region::container("bus", 1 << 64))?;
    /// # t.commit()?;
    /// let bus = model.add_space("what the device sees", root)?;
    /// let mappings = Arc::new(Mappings);
    /// model.add_listener(bus, 0, mappings.clone())?;
    ///
    /// // Later:
    /// model.remove_listener(bus, &mappings)?;
    /// model.remove_space(bus)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RemoveListenerError`]. The listener keeps following then. The view has not
    /// changed. An error of the listener's [`abort`](Listener::abort) is not reported; a
    /// [`Follower`](crate::Follower) that could not roll back needs a resync.
    ///
    /// While the guest has accepted pages of the space, no listener can be removed,
    /// because it could unmap them. The pages are given back or [revoked](Self::revoke)
    /// first.
    pub fn remove_listener<L: Listener<H> + ?Sized>(
        &mut self,
        space: SpaceId,
        listener: &Arc<L>,
    ) -> Result<(), RemoveListenerError> {
        self.undo_forgotten();
        let position = self.spaces.position(space)?;
        let it = &self.spaces[position];
        let Some(place) = it.position_of(listener) else {
            return Err(RemoveListenerError::NotFollowing {
                listener: listener.name().to_string(),
                space: it.name.clone(),
            });
        };
        let change = Change::to_nothing(&self.tree, &self.spaces, position);
        it.accepted_stays(&change.diff)?;
        let notifies = change.is_something();
        if notifies {
            let made = change.apply_to(&self.spaces, &**listener);
            made.map_err(|source| CommitError::Refused {
                listener: listener.name().to_string(),
                source,
                not_undone: Vec::new(),
            })?;
        }
        // It is removed before its `commit`, so a panic there does not keep it.
        self.spaces[position].listeners.remove(place);
        if notifies {
            listener.commit(&change.update(&self.spaces));
        }
        Ok(())
    }

    /// All address spaces: id, name and root, in the order they were added.
    pub fn spaces(&self) -> impl Iterator<Item = (SpaceId, &str, RegionId)> {
        let spaces = self.spaces.iter();
        spaces.map(|space| (space.id, space.name.as_str(), space.root))
    }

    /// A reader of the space's view.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn reader(&self, space: SpaceId) -> ViewReader<H> {
        known(self.spaces.get(space)).reader.clone()
    }

    /// The space's current view.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn view(&self, space: SpaceId) -> Arc<FlatView<H>> {
        known(self.spaces.get(space)).view.clone()
    }

    /// The clients for which all memory is logged. [`FlatView::unloggable`] lists
    /// the memory for which that is impossible.
    pub fn global_dirty_logging(&self) -> DirtyClients {
        self.tree.global_logging()
    }

    /// The ioeventfds that are active in the space, by address. The cost is
    /// proportional to the number of runs.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn ioeventfds(&self, space: SpaceId) -> Vec<IoEventFd> {
        AttachmentDiff::to_all_of(&self.tree, &self.view(space)).ioeventfds_added
    }

    /// The coalesced addresses of the space, as ranges that each lie in one run.
    /// The cost is proportional to the number of runs.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn coalesced(&self, space: SpaceId) -> Vec<AddrRange> {
        AttachmentDiff::to_all_of(&self.tree, &self.view(space)).coalesced_added
    }
}
