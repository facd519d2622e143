// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changes of the region tree that take effect together or not at all.

mod attach;
pub(crate) mod change;
mod commit;
mod logging;
pub(crate) mod nested;
pub(crate) mod undo;

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;

use crate::attachments::active::Touched;
use crate::backing::Memory;
use crate::error::TreeError;
use crate::ids::RegionId;
use crate::logging::{DirtyClients, Unloggable};
use crate::model::MemoryModel;
use crate::region::{Kind, Region, Switches};
use crate::render::windows::Windows;
use crate::transaction::undo::Undo;
use crate::tree::Tree;
use crate::tree::node::Place;

/// A set of changes to the region tree.
///
/// Each method changes the tree at once, or fails and leaves it unchanged. Views and
/// listeners follow at [`commit`](Self::commit). A transaction that is dropped, or
/// whose commit fails, is undone. A transaction that is forgotten
/// ([`core::mem::forget`]) is undone before the next change of the model. Until then
/// its steps are in the tree, but in no view.
#[derive(Debug)]
pub struct Transaction<'m, H> {
    pub(crate) model: &'m mut MemoryModel<H>,
    /// The addresses at which views can differ.
    pub(crate) windows: Windows,
    /// The attachments that were changed, if any.
    pub(crate) touched: Option<Touched>,
    /// The clients for which all memory was logged at the start.
    pub(crate) logging_before: DirtyClients,
}

impl<H> MemoryModel<H> {
    /// Begins a change. It takes effect when it is committed, and is undone if it
    /// is dropped before.
    pub fn transaction(&mut self) -> Transaction<'_, H> {
        self.undo_forgotten();
        Transaction::begin(self)
    }
}

impl<'m, H> Transaction<'m, H> {
    fn begin(model: &'m mut MemoryModel<H>) -> Self {
        Self {
            logging_before: model.tree.global_logging(),
            model,
            windows: Windows::default(),
            touched: None,
        }
    }

    /// The region tree as it is at this point of the transaction.
    pub fn tree(&self) -> &Tree<H> {
        &self.model.tree
    }

    /// Adds a region, which is not placed yet.
    ///
    /// # Errors
    /// [`TreeError::BadSize`]; [`TreeError::NoSuchRegion`] for an alias whose target
    /// does not exist.
    pub fn add(&mut self, region: Region<H>) -> Result<RegionId, TreeError> {
        let id = self.model.tree.add(region)?;
        self.model.undo.push(Undo::Add(id));
        Ok(id)
    }

    /// Removes a region. Returns it, with the caller's handle. Views and snapshots
    /// that still show the region keep its backing alive.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::InUse`] while it is placed, has
    /// children, is shown by an alias, has something attached or is the root of
    /// an address space.
    pub fn remove(&mut self, id: RegionId) -> Result<Arc<Region<H>>, TreeError> {
        let node = self.model.tree.remove(id)?;
        let region = node.region.clone();
        self.model.undo.push(Undo::Remove(id, Box::new(node)));
        Ok(region)
    }

    /// Places `child` in `parent` at offset `address`, in bytes. Among siblings, the
    /// higher priority wins; among equal priorities, the latest placed wins.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::AlreadyPlaced`];
    /// [`TreeError::Cycle`] if `child` would contain itself.
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
        self.model.undo.push(Undo::Place(child));
        self.windows.add_placed(&self.model.tree, child);
        Ok(())
    }

    /// Removes `child` from the region that it lies in.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotPlaced`].
    pub fn unplace(&mut self, child: RegionId) -> Result<(), TreeError> {
        self.windows.add_placed(&self.model.tree, child);
        let (place, placing) = self.model.tree.unplace(child)?;
        self.model.undo.push(Undo::Unplace(child, place, placing));
        Ok(())
    }

    /// Moves `child` to another offset in the region that it lies in. It then is the
    /// latest placed.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotPlaced`].
    pub fn move_to(&mut self, child: RegionId, address: u64) -> Result<(), TreeError> {
        let (place, placing) = self.model.tree.move_to(child, address)?;
        self.model.undo.push(Undo::Move(child, place, placing));
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

    /// Puts RAM, ROM or a ROM device on other memory of the same size, such as a new
    /// guest_memfd for the same host memory. Listeners see the old memory removed and the
    /// new memory added. The state of its pages does not change.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::OtherMemory`]; [`TreeError::NotLoggable`]
    /// if writes to the region are logged, and writes to `memory` cannot be.
    pub fn set_memory(&mut self, id: RegionId, memory: Memory) -> Result<(), TreeError>
    where
        H: Clone,
    {
        let (region, size) = (self.model.tree.region(id)?, memory.size());
        let Some(to) = region.on(memory) else {
            let name = region.name().to_string();
            return Err(TreeError::OtherMemory { name, size });
        };
        let is_logged = !self.model.tree.dirty_logging(id)?.is_empty();
        if let Some(why) = Unloggable::of(to.kind()).filter(|_| is_logged) {
            let name = region.name().to_string();
            return Err(TreeError::NotLoggable { name, why });
        }
        let before = self.model.tree.describe(id, Arc::new(to))?;
        self.windows.add_region(&self.model.tree, id);
        self.model.undo.push(Undo::Memory(id, before));
        Ok(())
    }

    /// Makes reads of a ROM device direct, or lets them trap.
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
        // The region shows while it is enabled: before the switch, after it, or both.
        if from.enabled {
            self.windows.add_region(&self.model.tree, id);
        }
        let before = self.model.tree.switch(id, to)?;
        self.windows.add_region(&self.model.tree, id);
        self.model.undo.push(Undo::Switch(id, before));
        Ok(())
    }
}

impl<H> Drop for Transaction<'_, H> {
    #[inline]
    fn drop(&mut self) {
        self.model.undo_forgotten();
    }
}
