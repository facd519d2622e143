// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A model → data.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use guest_ranges::{AddrRange, GuestMemfdSides};

use super::form::{
    IoEventFdState, ModelState, PlaceState, RegionState, SavedKind, SpaceState, VERSION,
};
use crate::backing::Memory;
use crate::ids::RegionId;
use crate::model::MemoryModel;
use crate::region::{Kind, Region};
use crate::space::Space;
use crate::tree::Tree;
use crate::tree::node::Node;

/// The numbers of regions in the data.
type Numbers = BTreeMap<RegionId, usize>;

impl<H> MemoryModel<H> {
    /// The model as data. `describe` returns what the caller needs to find the region's
    /// memory and handle again.
    ///
    /// Listeners are not a part of it, nor are the eventfds of ioeventfds, which
    /// [`Restore`](super::Restore) supplies.
    pub fn state<D>(
        &mut self,
        mut describe: impl FnMut(RegionId, &Region<H>) -> D,
    ) -> ModelState<D> {
        self.undo_forgotten();
        let tree = &self.tree;
        let ids = targets_first(tree);
        let numbers: Numbers = ids.iter().copied().zip(0..).collect();
        let nodes = || {
            let nodes = ids.iter().map(|id| (*id, tree.node(*id)));
            nodes.filter_map(|(id, node)| Some((id, node.ok()?)))
        };
        let regions = nodes().map(|(id, node)| {
            let data = describe(id, &node.region);
            region(node, data, &numbers)
        });
        let regions = regions.collect();
        let mut places: Vec<(u64, PlaceState)> = nodes()
            .filter_map(|(id, node)| Some((node.placing, place(id, node, &numbers)?)))
            .collect();
        places.sort_unstable_by_key(|(placing, _)| *placing);
        ModelState {
            version: VERSION,
            regions,
            places: places.into_iter().map(|(_, place)| place).collect(),
            spaces: self
                .spaces
                .iter()
                .filter_map(|s| space(s, &numbers))
                .collect(),
            global_logging: tree.global_logging().bits(),
        }
    }
}

/// All regions, each alias after its target.
fn targets_first<H>(tree: &Tree<H>) -> Vec<RegionId> {
    let is_alias = |id: &RegionId| {
        let node = tree.node(*id);
        node.is_ok_and(|node| matches!(node.region.kind(), Kind::Alias { .. }))
    };
    let mut ids: Vec<RegionId> = tree.ids().filter(|id| !is_alias(id)).collect();
    let mut next = 0;
    while let Some(id) = ids.get(next) {
        if let Ok(node) = tree.node(*id) {
            ids.extend(&node.aliases);
        }
        next += 1;
    }
    ids
}

fn region<H, D>(node: &Node<H>, data: D, numbers: &Numbers) -> RegionState<D> {
    let ioeventfds = node.attachments.ioeventfds(AddrRange::ALL);
    let ioeventfds = ioeventfds.map(|event| IoEventFdState {
        at: event.at,
        size: event.trigger.size(),
        value: event.trigger.value(),
    });
    RegionState {
        name: node.region.name().into(),
        kind: kind(node.region.kind(), numbers),
        last: node.offsets.last(),
        switches: node.switches,
        logging: node.logging.bits(),
        ioeventfds: ioeventfds.collect(),
        coalesced: node.attachments.coalesced(AddrRange::ALL).collect(),
        data,
    }
}

fn kind(kind: &Kind, numbers: &Numbers) -> SavedKind {
    match kind {
        Kind::Container => SavedKind::Container,
        Kind::Reservation => SavedKind::Reservation,
        Kind::Mmio => SavedKind::Mmio,
        Kind::Ram(memory) => SavedKind::Ram {
            sides: sides(memory),
        },
        Kind::Rom(memory) => SavedKind::Rom {
            sides: sides(memory),
        },
        Kind::RomDevice(memory) => SavedKind::RomDevice {
            sides: sides(memory),
        },
        Kind::DeviceRam(_) => SavedKind::DeviceRam,
        Kind::PrivateMmio(_) => SavedKind::PrivateMmio,
        Kind::Alias { target, offset } => SavedKind::Alias {
            // A target cannot be removed while it has aliases.
            target: numbers.get(target).copied().unwrap_or(usize::MAX),
            offset: *offset,
        },
    }
}

fn sides(memory: &Memory) -> Option<GuestMemfdSides> {
    memory.guest_memfd().map(|(_, sides)| sides)
}

fn place<H>(id: RegionId, node: &Node<H>, numbers: &Numbers) -> Option<PlaceState> {
    let place = node.place?;
    Some(PlaceState {
        region: *numbers.get(&id)?,
        parent: *numbers.get(&place.parent)?,
        address: place.address,
        priority: place.priority,
    })
}

fn space<H>(space: &Space<H>, numbers: &Numbers) -> Option<SpaceState> {
    Some(SpaceState {
        name: space.name.clone(),
        root: *numbers.get(&space.root)?,
        private: space.private.clone(),
        accepted: space.accepted.clone(),
        state_limit: u64::try_from(space.state_limit).unwrap_or(u64::MAX),
    })
}
