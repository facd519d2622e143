// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes of the region tree.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::attachments::Attachments;
use crate::ids::RegionId;
use crate::ids::SpaceId;
use crate::logging::{DirtyClients, Unloggable};
use crate::region::{Region, Switches};
use crate::tree::child::Child;
use crate::tree::children::Children;

/// The place of a region in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The region that it lies in.
    pub parent: RegionId,
    /// The offset in the parent, in bytes. It may be past the parent's end.
    pub address: u64,
    /// The priority. Among siblings, the higher priority wins; among equal priorities,
    /// the latest placed wins.
    pub priority: i32,
}

/// A region in the tree.
#[derive(Debug)]
pub(crate) struct Node<H> {
    pub(crate) region: Arc<Region<H>>,
    /// All offsets in the region.
    pub(crate) offsets: AddrRange,
    pub(crate) switches: Switches,
    /// The clients for which writes to this region are logged.
    pub(crate) logging: DirtyClients,
    pub(crate) attachments: Attachments,
    pub(crate) place: Option<Place>,
    /// The number of its placing, if it is placed.
    pub(crate) placing: u64,
    pub(crate) children: Children,
    /// The aliases that show this region.
    pub(crate) aliases: BTreeSet<RegionId>,
    /// The address spaces whose root it is.
    pub(crate) spaces: Vec<SpaceId>,
}

impl<H> Node<H> {
    /// The clients for which writes to the region are logged, including those for
    /// which all memory is logged. None if the region cannot be logged.
    pub(crate) fn logged(&self, global: DirtyClients) -> DirtyClients {
        match Unloggable::of(self.region.kind()) {
            None => self.logging | global,
            Some(_) => DirtyClients::NONE,
        }
    }

    /// The region as a child of the one that it lies in. `None` if it is not placed.
    pub(crate) fn as_child(&self, id: RegionId) -> Option<Child> {
        let place = self.place?;
        let range = self.offsets.moved_up(place.address)?;
        Some(Child {
            id,
            range,
            priority: place.priority,
            placing: self.placing,
        })
    }
}
