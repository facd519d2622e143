// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A region as part of a tree.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::attachments::Attachments;
use crate::logging::{DirtyClients, Unloggable};
use crate::region::{Region, RegionId, Switches};
use crate::space::SpaceId;
use crate::tree::children::{Child, Children};

/// Where a region lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which region.
    pub parent: RegionId,
    /// At which offset in it, in bytes. It may lie past the parent's end.
    pub address: u64,
    /// Among its siblings the higher priority wins; among equals, the latest.
    pub priority: i32,
}

/// A region as part of a tree.
#[derive(Debug)]
pub(crate) struct Node<H> {
    pub(crate) region: Arc<Region<H>>,
    /// All offsets in it.
    pub(crate) offsets: AddrRange,
    pub(crate) switches: Switches,
    /// For whom the writes to this very region are logged.
    pub(crate) logging: DirtyClients,
    pub(crate) attachments: Attachments,
    pub(crate) place: Option<Place>,
    /// The number of its placing, if it is placed.
    pub(crate) placing: u64,
    pub(crate) children: Children,
    /// The aliases that show this region.
    pub(crate) aliases: BTreeSet<RegionId>,
    /// The address spaces that show it from their first address on.
    pub(crate) spaces: Vec<SpaceId>,
}

impl<H> Node<H> {
    /// For whom the writes to the region are logged: for those who asked for
    /// it and for those who have all logged, if it can be.
    pub(crate) fn logged(&self, global: DirtyClients) -> DirtyClients {
        match Unloggable::of(self.region.kind()) {
            None => self.logging | global,
            Some(_) => DirtyClients::NONE,
        }
    }

    /// The region as a child of the one that it lies in. `None` if it lies
    /// nowhere.
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
