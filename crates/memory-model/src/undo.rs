// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How to go back by one step of a transaction.

use alloc::boxed::Box;

use crate::attachments::IoEventKey;
use crate::node::{Node, Place};
use crate::tree::Tree;
use crate::{AddrRange, DirtyClients, EventFd, RegionId, Switches};

/// What undoes a step, on the tree as the step left it.
#[derive(Debug)]
pub(crate) enum Undo<H> {
    Add(RegionId),
    Remove(RegionId, Box<Node<H>>),
    Place(RegionId),
    Unplace(RegionId, Place, u64),
    Move(RegionId, Place, u64),
    Switch(RegionId, Switches),
    Logging(RegionId, DirtyClients),
    GlobalLogging(DirtyClients),
    IoEventFd(RegionId, IoEventKey, Option<EventFd>),
    Coalesced(RegionId, AddrRange, bool),
}

impl<H> Undo<H> {
    pub(crate) fn undo(self, tree: &mut Tree<H>) {
        // Each undoes what succeeded on this very tree.
        match self {
            Self::Add(id) => tree.undo_add(id),
            Self::Remove(id, node) => tree.restore(id, *node),
            Self::Place(id) => drop(tree.unplace(id)),
            Self::Unplace(id, place, placing) => tree.put(id, place, placing),
            Self::Move(id, place, placing) => drop(tree.put_again(id, place, placing)),
            Self::Switch(id, before) => drop(tree.switch(id, before)),
            Self::Logging(id, before) => drop(tree.set_logging(id, before)),
            Self::GlobalLogging(before) => drop(tree.set_global_logging(before)),
            Self::IoEventFd(id, key, before) => drop(tree.set_ioeventfd(id, key, before)),
            Self::Coalesced(id, range, before) => drop(tree.set_coalesced(id, range, before)),
        }
    }
}
