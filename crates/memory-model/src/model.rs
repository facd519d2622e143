// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model: one region tree, and the address spaces that show parts of it.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::follow::follow;
use crate::render::{MAX_VISITS, TooComplex};
use crate::runs::Pool;
use crate::state_limit::DEFAULT_STATE_LIMIT;
use crate::tree::Tree;
use crate::{
    AddrRange, AttachmentDiff, CommitError, Diff, DirtyClients, FlatView, GlobalLogging, IoEventFd,
    Listener, ListenerError, PageSet, RegionId, Transaction, TreeError, Update, ViewReader,
};

/// Names an address space of one [`MemoryModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub(crate) usize);

/// A region tree, and address spaces rooted in it. `H` is the caller's own
/// handle, which rides on every region and comes back from every lookup.
///
/// Changes go through a [`Transaction`]; readers on other threads use a
/// [`ViewReader`].
#[derive(Debug)]
pub struct MemoryModel<H = ()> {
    pub(crate) tree: Tree<H>,
    pub(crate) spaces: Vec<Space<H>>,
    /// Nothing, and room for what differs next.
    pub(crate) spare: Diff<H>,
    /// Nodes for the next view.
    pub(crate) pool: Pool<H>,
}

/// One address space: a root, its current view, who follows it, and the state
/// of its pages.
pub(crate) struct Space<H> {
    pub(crate) name: String,
    pub(crate) root: RegionId,
    /// What the reader shows.
    pub(crate) view: Arc<FlatView<H>>,
    reader: ViewReader<H>,
    /// By priority, the lowest first; among equals, the earliest first.
    pub(crate) listeners: Vec<(i32, Arc<dyn Listener<H>>)>,
    pub(crate) accepted: PageSet,
    pub(crate) private: PageSet,
    /// The most bytes that `private` may come to take.
    pub(crate) state_limit: usize,
}

impl<H> fmt::Debug for Space<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({:?}, root {:?})", self.name, self.root)
    }
}

impl<H> Space<H> {
    /// Shows another view to readers.
    pub(crate) fn publish(&mut self, view: &Arc<FlatView<H>>) {
        self.reader.publish(view.clone());
        self.view = view.clone();
    }

    /// The view that takes the place of `old`, which is right everywhere but
    /// in `windows`; adds what differs to `diff`.
    pub(crate) fn follow(
        &self,
        tree: &Tree<H>,
        old: &Arc<FlatView<H>>,
        windows: &[AddrRange],
        diff: &mut Diff<H>,
        pool: &mut Pool<H>,
    ) -> Result<Arc<FlatView<H>>, CommitError> {
        let new = follow(tree, self.root, old, windows, diff, pool);
        new.map_err(|TooComplex| CommitError::TooComplex {
            space: self.name.clone(),
            limit: MAX_VISITS,
        })
    }
}

impl<H> Default for MemoryModel<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> MemoryModel<H> {
    /// A model without regions and without address spaces.
    pub fn new() -> Self {
        Self {
            tree: Tree::new(),
            spaces: Vec::new(),
            spare: Diff::default(),
            pool: Pool::default(),
        }
    }

    /// The region tree, to look at.
    pub fn tree(&self) -> &Tree<H> {
        &self.tree
    }

    /// Begins a change. Nothing of it shows before it is committed; dropped
    /// without that, it never happened.
    pub fn transaction(&mut self) -> Transaction<'_, H> {
        Transaction::begin(self)
    }

    /// Adds an address space that shows `root` from address 0 on.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn add_space(&mut self, name: &str, root: RegionId) -> Result<SpaceId, AddSpaceError> {
        let nothing = Arc::new(FlatView::empty());
        let mut space = Space {
            name: name.to_string(),
            root,
            reader: ViewReader::new(nothing.clone()),
            view: nothing.clone(),
            listeners: Vec::new(),
            accepted: PageSet::new(),
            private: PageSet::new(),
            state_limit: DEFAULT_STATE_LIMIT,
        };
        self.tree.node(root)?;
        let mut diff = Diff::default();
        let all = [AddrRange::ALL];
        let view = space.follow(&self.tree, &nothing, &all, &mut diff, &mut self.pool)?;
        space.publish(&view);
        let id = SpaceId(self.spaces.len());
        self.tree.add_space(root, id)?;
        self.spaces.push(space);
        Ok(id)
    }

    /// All address spaces: id, name and root, in the order they were added.
    pub fn spaces(&self) -> impl Iterator<Item = (SpaceId, &str, RegionId)> {
        let spaces = self.spaces.iter().enumerate();
        spaces.map(|(i, space)| (SpaceId(i), space.name.as_str(), space.root))
    }

    /// A reader of the space's view.
    pub fn reader(&self, space: SpaceId) -> ViewReader<H> {
        self.spaces[space.0].reader.clone()
    }

    /// The space's view as it is now.
    pub fn view(&self, space: SpaceId) -> Arc<FlatView<H>> {
        self.spaces[space.0].view.clone()
    }

    /// The ioeventfds that are active in the space, by address. It looks at
    /// every run.
    pub fn ioeventfds(&self, space: SpaceId) -> Vec<IoEventFd> {
        AttachmentDiff::to_all_of(&self.tree, &self.view(space)).ioeventfds_added
    }

    /// The addresses of the space that are coalesced, as ranges of which each
    /// lies in one run. It looks at every run.
    pub fn coalesced(&self, space: SpaceId) -> Vec<AddrRange> {
        AttachmentDiff::to_all_of(&self.tree, &self.view(space)).coalesced_added
    }

    /// Has `listener` follow `space`, starting with a change from nothing to
    /// the view as it is.
    ///
    /// # Errors
    /// What its `prepare` said of that first change; it follows nothing then.
    pub fn add_listener(
        &mut self,
        space: SpaceId,
        priority: i32,
        listener: Arc<dyn Listener<H>>,
    ) -> Result<(), ListenerError> {
        let (nothing, now) = (FlatView::empty(), self.view(space));
        let diff = Diff::between(&nothing, &now);
        let global_logging = GlobalLogging {
            before: DirtyClients::NONE,
            after: self.tree.global_logging(),
        };
        let attachments = AttachmentDiff::to_all_of(&self.tree, &now);
        // What is attached shows in some run.
        if !diff.is_empty() || global_logging.changes() {
            let update = Update {
                space,
                old: &nothing,
                new: &now,
                diff: &diff,
                global_logging,
                attachments: &attachments,
                private: self.private(space),
            };
            listener.prepare(&update)?;
            listener.commit(&update);
        }
        let listeners = &mut self.spaces[space.0].listeners;
        let position = listeners.partition_point(|(p, _)| *p <= priority);
        listeners.insert(position, (priority, listener));
        Ok(())
    }
}

/// Why an address space could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddSpaceError {
    /// Its root is not part of the model.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Its view cannot be rendered.
    #[error(transparent)]
    Render(#[from] CommitError),
}
