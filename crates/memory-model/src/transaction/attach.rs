// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps of a transaction that attach ioeventfds and coalesced ranges.

use alloc::string::ToString;

use guest_ranges::AddrRange;

use crate::attachments::{EventFd, IoEventFd, IoEventKey};
use crate::error::TreeError;
use crate::ids::RegionId;
use crate::transaction::Transaction;
use crate::transaction::undo::Undo;
use crate::tree::node::Node;

impl<H> Transaction<'_, H> {
    /// Attaches an ioeventfd to a region: matching writes signal the eventfd instead
    /// of exiting to the VMM.
    ///
    /// The ioeventfd is active where all bytes of a matching write lie in one trapped
    /// run of the region. Elsewhere, writes exit to the VMM.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotTrapped`] for kinds other
    /// than MMIO and ROM devices; [`TreeError::OutsideRegion`];
    /// [`TreeError::AlreadyAttached`] if a write could signal two ioeventfds.
    pub fn attach_ioeventfd(
        &mut self,
        id: RegionId,
        ioeventfd: IoEventFd,
    ) -> Result<(), TreeError> {
        let node = self.model.tree.node(id)?;
        let at = ioeventfd.at;
        takes_attachment(node, at, ioeventfd.range())?;
        let mut there = AddrRange::from_bounds(at, at)
            .into_iter()
            .flat_map(|at| node.attachments.ioeventfds(at));
        if there.any(|other| other.trigger.meets(ioeventfd.trigger)) {
            let name = node.region.name().to_string();
            return Err(TreeError::AlreadyAttached { name, at });
        }
        drop(there);
        self.put_ioeventfd(id, ioeventfd.key(), Some(ioeventfd.event));
        Ok(())
    }

    /// Detaches an ioeventfd: matching writes exit to the VMM again.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotAttached`] if no identical
    /// ioeventfd is attached.
    pub fn detach_ioeventfd(
        &mut self,
        id: RegionId,
        ioeventfd: &IoEventFd,
    ) -> Result<(), TreeError> {
        let node = self.model.tree.node(id)?;
        if !node.attachments.has_ioeventfd(ioeventfd) {
            let name = node.region.name().to_string();
            let at = ioeventfd.at;
            return Err(TreeError::NotAttached { name, at });
        }
        self.put_ioeventfd(id, ioeventfd.key(), None);
        Ok(())
    }

    /// Attaches a coalesced range to a region: where writes to these offsets trap,
    /// they are queued until the vCPU exits to the VMM for another reason.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotTrapped`] for kinds other
    /// than MMIO and ROM devices; [`TreeError::OutsideRegion`];
    /// [`TreeError::AlreadyAttached`] if it overlaps another.
    pub fn attach_coalesced(&mut self, id: RegionId, range: AddrRange) -> Result<(), TreeError> {
        let node = self.model.tree.node(id)?;
        takes_attachment(node, range.start(), Some(range))?;
        if let Some(other) = node.attachments.coalesced(range).next() {
            let name = node.region.name().to_string();
            let at = other.start().max(range.start());
            return Err(TreeError::AlreadyAttached { name, at });
        }
        self.put_coalesced(id, range, true);
        Ok(())
    }

    /// Detaches a coalesced range: writes to these offsets exit to the VMM at once
    /// again.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotAttached`] if no identical range
    /// is attached.
    pub fn detach_coalesced(&mut self, id: RegionId, range: AddrRange) -> Result<(), TreeError> {
        let node = self.model.tree.node(id)?;
        if !node.attachments.has_coalesced(range) {
            let name = node.region.name().to_string();
            let at = range.start();
            return Err(TreeError::NotAttached { name, at });
        }
        self.put_coalesced(id, range, false);
        Ok(())
    }

    fn put_ioeventfd(&mut self, id: RegionId, key: IoEventKey, to: Option<EventFd>) {
        let before = self.model.tree.set_ioeventfd(id, key, to);
        let touched = self.touched.get_or_insert_default();
        touched.ioeventfd(id, key, before.clone());
        self.model.undo.push(Undo::IoEventFd(id, key, before));
    }

    fn put_coalesced(&mut self, id: RegionId, range: AddrRange, to: bool) {
        let before = self.model.tree.set_coalesced(id, range, to);
        let touched = self.touched.get_or_insert_default();
        touched.coalesced(id, range, before);
        self.model.undo.push(Undo::Coalesced(id, range, before));
    }
}

/// Checks that something can be attached to `range` of a region.
fn takes_attachment<H>(node: &Node<H>, at: u64, range: Option<AddrRange>) -> Result<(), TreeError> {
    let region = &node.region;
    if !region.kind().takes_attachments() {
        let name = region.name().to_string();
        return Err(TreeError::NotTrapped { name });
    }
    let own = AddrRange::new(0, region.size());
    let inside = own.zip(range).is_some_and(|(own, range)| own.covers(range));
    match inside {
        true => Ok(()),
        false => Err(TreeError::OutsideRegion {
            name: region.name().to_string(),
            at,
        }),
    }
}
