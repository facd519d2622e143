// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changes of the region tree that take effect together or not at all.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::SmallVec;

use crate::active::Touched;
use crate::model::{MemoryModel, Space, SpaceId};
use crate::node::Place;
use crate::tree::Tree;
use crate::undo::Undo;
use crate::windows::{Ranges, Windows};
use crate::{
    AttachmentDiff, CommitError, Diff, DirtyClients, FlatView, GlobalLogging, Kind, Listener,
    NotUndone, Region, RegionId, Switches, TreeError, Update,
};

/// A change of the region tree in the making.
///
/// Each method changes the tree at once, or refuses and leaves it as it was;
/// views and listeners follow at [`commit`](Self::commit). A transaction that
/// is dropped, or whose commit fails, is undone.
#[derive(Debug)]
pub struct Transaction<'m, H> {
    pub(crate) model: &'m mut MemoryModel<H>,
    /// How to go back, the latest step last.
    pub(crate) undo: SmallVec<[Undo<H>; 2]>,
    /// Where views can differ.
    pub(crate) windows: Windows,
    /// What was attached or detached.
    pub(crate) touched: Touched,
    /// For whom all memory was logged when it began.
    logging_before: DirtyClients,
}

impl<'m, H> Transaction<'m, H> {
    pub(crate) fn begin(model: &'m mut MemoryModel<H>) -> Self {
        Self {
            logging_before: model.tree.global_logging(),
            model,
            undo: SmallVec::new(),
            windows: Windows::default(),
            touched: Touched::default(),
        }
    }

    /// The region tree as it is at this point of the transaction.
    pub fn tree(&self) -> &Tree<H> {
        &self.model.tree
    }

    /// Adds a region, which lies nowhere yet.
    ///
    /// # Errors
    /// [`TreeError::BadSize`]; [`TreeError::NoSuchRegion`] for an alias of
    /// nothing.
    pub fn add(&mut self, region: Region<H>) -> Result<RegionId, TreeError> {
        let id = self.model.tree.add(region)?;
        self.undo.push(Undo::Add(id));
        Ok(id)
    }

    /// Removes a region. Views and snapshots that still show it keep what it
    /// is made of alive.
    ///
    /// # Errors
    /// [`TreeError::InUse`] while it is placed, has children, is shown by an
    /// alias or is the root of an address space.
    pub fn remove(&mut self, id: RegionId) -> Result<(), TreeError> {
        let node = self.model.tree.remove(id)?;
        self.undo.push(Undo::Remove(id, Box::new(node)));
        Ok(())
    }

    /// Puts `child` into `parent` at offset `address`, in bytes. Among
    /// siblings the higher priority wins, and among equals the latest placed.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::AlreadyPlaced`];
    /// [`TreeError::Cycle`] if it would come to contain itself.
    pub fn place(
        &mut self,
        child: RegionId,
        parent: RegionId,
        address: u64,
        priority: i32,
    ) -> Result<(), TreeError> {
        let place = Place {
            parent,
            address,
            priority,
        };
        self.model.tree.place_at(child, place)?;
        self.undo.push(Undo::Place(child));
        self.windows.add_placed(&self.model.tree, child);
        Ok(())
    }

    /// Takes `child` out of the region it lies in.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotPlaced`].
    pub fn unplace(&mut self, child: RegionId) -> Result<(), TreeError> {
        self.windows.add_placed(&self.model.tree, child);
        let (place, placing) = self.model.tree.unplace(child)?;
        self.undo.push(Undo::Unplace(child, place, placing));
        Ok(())
    }

    /// Moves `child` to another offset in the region it lies in. That makes it
    /// the latest placed among equals.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotPlaced`].
    pub fn move_to(&mut self, child: RegionId, address: u64) -> Result<(), TreeError> {
        let (place, placing) = self.model.tree.move_to(child, address)?;
        self.undo.push(Undo::Move(child, place, placing));
        let tree = &self.model.tree;
        self.windows.add_moved(tree, child, place.address);
        Ok(())
    }

    /// Shows or hides a region with all that is in it.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn set_enabled(&mut self, id: RegionId, enabled: bool) -> Result<(), TreeError> {
        self.switch(id, |s| Switches { enabled, ..s })
    }

    /// Forbids or allows guest writes to the memory in a region.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn set_readonly(&mut self, id: RegionId, readonly: bool) -> Result<(), TreeError> {
        self.switch(id, |s| Switches { readonly, ..s })
    }

    /// Has a ROM device answer reads directly, or trap them.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotRomDevice`].
    pub fn set_direct_reads(&mut self, id: RegionId, direct: bool) -> Result<(), TreeError> {
        let region = self.model.tree.region(id)?;
        if !matches!(region.kind(), Kind::RomDevice(_)) {
            let name = region.name().to_string();
            return Err(TreeError::NotRomDevice { name });
        }
        self.switch(id, |s| Switches {
            direct_reads: direct,
            ..s
        })
    }

    fn switch(
        &mut self,
        id: RegionId,
        change: impl FnOnce(Switches) -> Switches,
    ) -> Result<(), TreeError> {
        let from = self.model.tree.switches(id)?;
        let to = change(from);
        if to == from {
            return Ok(());
        }
        // It shows while it is enabled, be that before or after.
        if from.enabled {
            self.windows.add_region(&self.model.tree, id);
        }
        let before = self.model.tree.switch(id, to)?;
        if !from.enabled {
            self.windows.add_region(&self.model.tree, id);
        }
        self.undo.push(Undo::Switch(id, before));
        Ok(())
    }

    /// Undoes the latest steps, all but the first `steps`.
    pub(crate) fn go_back_to(&mut self, steps: usize) {
        while self.undo.len() > steps {
            if let Some(step) = self.undo.pop() {
                step.undo(&mut self.model.tree);
            }
        }
    }

    /// Makes the change: every listener of every space whose view differs
    /// prepares for it, then the new views are published, then the listeners
    /// learn that it is done. A space for which nothing differs is left alone.
    ///
    /// # Errors
    /// [`CommitError`]; nothing has changed then.
    pub fn commit(mut self) -> Result<(), CommitError> {
        if Undo::is_nothing(&self.undo, &self.model.tree) {
            self.undo.clear();
            return Ok(());
        }
        let mut changes = self.plan()?;
        self.prepare(&changes)?;
        for change in &changes {
            if !change.diff.is_empty() {
                self.model.spaces[change.space.0].publish(&change.new);
            }
        }
        for change in &changes {
            for (_, listener) in &self.model.spaces[change.space.0].listeners {
                listener.commit(&change.update(self.model));
            }
        }
        for change in &mut changes {
            self.model.recycle(change);
        }
        // A view that shows what is no longer in the tree keeps it alive: only
        // those who read it may have it now.
        let removed = |step: &Undo<H>| matches!(step, Undo::Remove(..));
        if self.undo.iter().any(removed) {
            self.model.pool.let_go();
        }
        self.undo.clear();
        Ok(())
    }

    /// Renders anew what can differ, and keeps the spaces that do differ.
    fn plan(&mut self) -> Result<Changes<H>, CommitError> {
        let global_logging = GlobalLogging {
            before: self.logging_before,
            after: self.model.tree.global_logging(),
        };
        let windows = &mut self.windows;
        if global_logging.changes() {
            windows.add_everything();
        }
        let (tree, spaces) = (&self.model.tree, self.model.spaces.len());
        let mut windows = windows.by_space(spaces);
        let mut marked = SmallVec::new();
        if !self.touched.is_empty() {
            marked = self.touched.windows(tree).by_space(spaces);
            for (space, _) in &marked {
                if let Err(at) = windows.binary_search_by_key(space, |w| w.0) {
                    windows.insert(at, (*space, Ranges::new()));
                }
            }
        }
        let attached = tree.has_attachments() || !self.touched.is_empty();
        let mut changes = Changes::new();
        for (id, windows) in windows {
            let space = &self.model.spaces[id.0];
            let old = space.view.clone();
            let mut diff = core::mem::take(&mut self.model.spare);
            let new = space.follow(tree, &old, &windows, &mut diff, &mut self.model.pool)?;
            let attachments = match attached {
                true => {
                    let views = [&*old, &*new];
                    let marked = marked.iter().find(|w| w.0 == id).map(|w| &w.1[..]);
                    AttachmentDiff::between(
                        tree,
                        &self.touched,
                        views,
                        &diff,
                        marked.unwrap_or(&[]),
                    )
                }
                false => AttachmentDiff::default(),
            };
            if diff.is_empty() && attachments.is_empty() && !global_logging.changes() {
                continue;
            }
            accepted_stays(space, &diff)?;
            changes.push(Change {
                space: id,
                old,
                new,
                diff,
                global_logging,
                attachments,
            });
        }
        Ok(changes)
    }

    /// Has every listener prepare; if one refuses, those before it go back.
    fn prepare(&self, changes: &[Change<H>]) -> Result<(), CommitError> {
        let mut prepared = 0;
        for change in changes {
            for (_, listener) in &self.model.spaces[change.space.0].listeners {
                if let Err(source) = listener.prepare(&change.update(self.model)) {
                    let earlier = self.listeners(changes).take(prepared);
                    return Err(CommitError::Refused {
                        listener: listener.name().to_string(),
                        source,
                        not_undone: go_back(self.model, earlier.collect()),
                    });
                }
                prepared += 1;
            }
        }
        Ok(())
    }

    /// Who learns of which change, in order.
    fn listeners<'a>(
        &'a self,
        changes: &'a [Change<H>],
    ) -> impl Iterator<Item = (&'a Change<H>, &'a dyn Listener<H>)> {
        changes.iter().flat_map(|change| {
            let listeners = &self.model.spaces[change.space.0].listeners;
            listeners.iter().map(move |(_, one)| (change, &**one))
        })
    }
}

/// Has listeners go back, the last to prepare first; says who could not.
fn go_back<H>(
    model: &MemoryModel<H>,
    prepared: Vec<(&Change<H>, &dyn Listener<H>)>,
) -> Vec<NotUndone> {
    let aborted = prepared.into_iter().rev().filter_map(|(change, listener)| {
        let source = listener.abort(&change.update(model)).err()?;
        let listener = listener.name().to_string();
        Some(NotUndone { listener, source })
    });
    aborted.collect()
}

impl<H> Drop for Transaction<'_, H> {
    fn drop(&mut self) {
        self.go_back_to(0);
    }
}

/// A change of so many runs is not a usual one.
const MANY: usize = 64;

/// Those of a usual transaction: of one space.
type Changes<H> = SmallVec<[Change<H>; 1]>;

/// The planned change of one space's view.
struct Change<H> {
    space: SpaceId,
    old: Arc<FlatView<H>>,
    new: Arc<FlatView<H>>,
    diff: Diff<H>,
    global_logging: GlobalLogging,
    attachments: AttachmentDiff,
}

impl<H> MemoryModel<H> {
    /// Keeps of a change that is made what the next can use.
    fn recycle(&mut self, change: &mut Change<H>) {
        let large = change.diff.len() > MANY;
        change.diff.clear();
        self.spare = core::mem::take(&mut change.diff);
        let old = core::mem::replace(&mut change.old, change.new.clone());
        self.pool.retire(old);
        // Nothing is kept for readers if that could be all of a view.
        if large {
            self.pool.let_go();
        }
    }
}

impl<H> Change<H> {
    fn update<'a>(&'a self, model: &'a MemoryModel<H>) -> Update<'a, H> {
        Update {
            space: self.space,
            old: &self.old,
            new: &self.new,
            diff: &self.diff,
            global_logging: self.global_logging,
            attachments: &self.attachments,
            private: model.private(self.space),
        }
    }
}

/// Invariant 3: what the guest has accepted is not touched. A run is mapped as
/// a whole, so the whole run stays that holds an accepted byte: whoever cut it,
/// or joined something to it, would have to unmap the accepted byte meanwhile.
fn accepted_stays<H>(space: &Space<H>, diff: &Diff<H>) -> Result<(), CommitError> {
    if space.accepted.is_empty() {
        return Ok(());
    }
    let changed = diff.changed.iter().map(|(old, _)| old);
    for run in diff.removed.iter().chain(changed) {
        if let Some(range) = space.accepted.within(run.range()).next() {
            let region = run.region().name().to_string();
            return Err(CommitError::Accepted { range, region });
        }
    }
    Ok(())
}
