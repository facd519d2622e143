// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The region tree: parents, places and priorities.

mod attachments;
mod by_start;
mod check;
pub(crate) mod child;
pub(crate) mod children;
mod cycle;
pub(crate) mod node;

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::attachments::Attachments;
use crate::error::{TreeError, Use};
use crate::ids::RegionId;
use crate::ids::{ModelId, SpaceId};
use crate::logging::{DirtyClients, Unloggable};
use crate::region::{Kind, Region, Switches};
use crate::tree::child::Child;
use crate::tree::children::Children;
use crate::tree::node::{Node, Place};

/// All regions of a model, placed or not. Read it through
/// [`MemoryModel::tree`](crate::MemoryModel::tree), and change it with a
/// [`Transaction`](crate::Transaction).
#[derive(Debug)]
pub struct Tree<H> {
    /// The first generation of each entry. It differs between models, so that ids of
    /// other models are invalid here.
    first_generation: u32,
    entries: Vec<Entry<H>>,
    /// The entries without a region, to be reused.
    free: Vec<u32>,
    /// The number of placings so far.
    placings: u64,
    /// The clients for which writes to all memory are logged.
    global_logging: DirtyClients,
    /// The number of attachments of all regions.
    pub(crate) attachments: usize,
}

/// An entry of the table of regions. It holds one region after the other, each with a
/// generation of its own, so that ids are never reused.
#[derive(Debug)]
struct Entry<H> {
    node: Option<(u32, Node<H>)>,
    next_generation: u32,
}

impl<H> Tree<H> {
    pub(crate) fn new(model: ModelId) -> Self {
        Self {
            first_generation: u32::from(model.0) << RegionId::GENERATION_BITS,
            entries: Vec::new(),
            free: Vec::new(),
            placings: 0,
            global_logging: DirtyClients::NONE,
            attachments: 0,
        }
    }

    pub(crate) fn node(&self, id: RegionId) -> Result<&Node<H>, TreeError> {
        match self.entries.get(id.index as usize) {
            Some(Entry {
                node: Some((generation, node)),
                ..
            }) if *generation == id.generation => Ok(node),
            _ => Err(TreeError::NoSuchRegion(id)),
        }
    }

    pub(crate) fn node_mut(&mut self, id: RegionId) -> Result<&mut Node<H>, TreeError> {
        match self.entries.get_mut(id.index as usize) {
            Some(Entry {
                node: Some((generation, node)),
                ..
            }) if *generation == id.generation => Ok(node),
            _ => Err(TreeError::NoSuchRegion(id)),
        }
    }

    fn name(&self, id: RegionId) -> String {
        self.node(id)
            .map_or_else(|_| "?".into(), |n| n.region.name().to_string())
    }

    /// The region's description.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn region(&self, id: RegionId) -> Result<&Region<H>, TreeError> {
        Ok(&self.node(id)?.region)
    }

    /// The region's switches, without what it inherits.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn switches(&self, id: RegionId) -> Result<Switches, TreeError> {
        Ok(self.node(id)?.switches)
    }

    /// The clients for which writes to the region are logged, without those for which
    /// all memory is logged.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn dirty_logging(&self, id: RegionId) -> Result<DirtyClients, TreeError> {
        Ok(self.node(id)?.logging)
    }

    /// The place of the region, if it is placed.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn place(&self, id: RegionId) -> Result<Option<Place>, TreeError> {
        Ok(self.node(id)?.place)
    }

    /// The regions in this one, the winner first.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`].
    pub fn children(&self, id: RegionId) -> Result<Vec<RegionId>, TreeError> {
        let mut children: Vec<Child> = self.node(id)?.children.all();
        children.sort_unstable_by_key(Child::rank);
        Ok(children.into_iter().map(|child| child.id).collect())
    }

    /// `root` and every region below it, with its depth. Parents precede their
    /// children, and children are sorted by address. Aliases are not followed. Empty if
    /// there is no such region.
    pub fn walk(&self, root: RegionId) -> Vec<(usize, RegionId)> {
        let mut out = Vec::new();
        let mut stack = vec![(0, root)];
        while let Some((depth, id)) = stack.pop() {
            let Ok(node) = self.node(id) else { continue };
            out.push((depth, id));
            let mut children: Vec<Child> = node.children.all();
            children.sort_unstable_by_key(|child| (child.range.start(), child.rank()));
            let children = children.into_iter().rev();
            stack.extend(children.map(|child| (depth + 1, child.id)));
        }
        out
    }

    /// Every region that lies in no other region, by id: roots of address spaces,
    /// targets of aliases, and regions that are not placed.
    pub fn roots(&self) -> impl Iterator<Item = RegionId> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let (generation, node) = entry.node.as_ref()?;
            let generation = *generation;
            node.place
                .is_none()
                .then_some(RegionId { index, generation })
        })
    }

    /// Every region, by id.
    #[cfg(feature = "serde")]
    pub(crate) fn ids(&self) -> impl Iterator<Item = RegionId> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let (generation, _) = entry.node.as_ref()?;
            let generation = *generation;
            Some(RegionId { index, generation })
        })
    }

    /// Adds a region, which is not placed yet.
    pub(crate) fn add(&mut self, region: Region<H>) -> Result<RegionId, TreeError> {
        let Some(offsets) = AddrRange::new(0, region.size()) else {
            return Err(TreeError::BadSize {
                name: region.name().into(),
                size: region.size(),
            });
        };
        let target = match *region.kind() {
            Kind::Alias { target, .. } => Some(target),
            _ => None,
        };
        if let Some(target) = target {
            self.node(target)?;
        }
        let id = self.insert(Node {
            switches: region.switches,
            logging: DirtyClients::NONE,
            attachments: Attachments::default(),
            region: Arc::new(region),
            offsets,
            place: None,
            placing: 0,
            children: Children::default(),
            aliases: BTreeSet::new(),
            spaces: Vec::new(),
        });
        if let Some(target) = target {
            self.node_mut(target)?.aliases.insert(id);
        }
        Ok(id)
    }

    /// Stores a region in an entry, which determines its id.
    fn insert(&mut self, node: Node<H>) -> RegionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                node: None,
                next_generation: self.first_generation,
            });
            u32::try_from(self.entries.len() - 1).expect("2^32 regions do not fit in memory")
        });
        let entry = &mut self.entries[index as usize];
        let generation = entry.next_generation;
        entry.next_generation = generation.wrapping_add(1);
        entry.node = Some((generation, node));
        RegionId { index, generation }
    }

    /// Removes a region from its entry.
    fn remove_entry(&mut self, id: RegionId) -> Result<Node<H>, TreeError> {
        self.node(id)?;
        let entry = &mut self.entries[id.index as usize];
        let (_, node) = entry.node.take().ok_or(TreeError::NoSuchRegion(id))?;
        // An entry whose generations have run out stays empty.
        if entry.next_generation & RegionId::GENERATIONS != 0 {
            self.free.push(id.index);
        }
        self.release_target(id, &node);
        Ok(node)
    }

    /// Undoes [`add`](Self::add).
    pub(crate) fn undo_add(&mut self, id: RegionId) {
        // All later steps are undone already.
        drop(self.remove_entry(id));
    }

    /// Removes a region that nothing uses.
    pub(crate) fn remove(&mut self, id: RegionId) -> Result<Node<H>, TreeError> {
        let node = self.node(id)?;
        let by = match node {
            Node { place: Some(_), .. } => Some(Use::Placed),
            _ if !node.aliases.is_empty() => Some(Use::AliasTarget),
            _ if !node.spaces.is_empty() => Some(Use::Root),
            _ if !node.children.is_empty() => Some(Use::HasChildren),
            _ if !node.attachments.is_empty() => Some(Use::HasAttachments),
            _ => None,
        };
        if let Some(by) = by {
            let name = self.name(id);
            return Err(TreeError::InUse { name, by });
        }
        self.remove_entry(id)
    }

    fn release_target(&mut self, id: RegionId, node: &Node<H>) {
        if let Kind::Alias { target, .. } = *node.region.kind() {
            if let Ok(target) = self.node_mut(target) {
                target.aliases.remove(&id);
            }
        }
    }

    /// Undoes [`remove`](Self::remove), after all later steps were undone.
    ///
    /// The entry is then the last in the list of free entries: a later step that took
    /// an entry from the end of the list has put it back, and one that needed a new
    /// entry found the list empty and left its own at the end. Only an entry without
    /// further generations is not in the list.
    pub(crate) fn restore(&mut self, id: RegionId, node: Node<H>) {
        if let Kind::Alias { target, .. } = *node.region.kind() {
            if let Ok(target) = self.node_mut(target) {
                target.aliases.insert(id);
            }
        }
        if self.free.last() == Some(&id.index) {
            self.free.pop();
        }
        self.entries[id.index as usize].node = Some((id.generation, node));
    }

    /// Places a region that is not placed in another.
    pub(crate) fn place_at(&mut self, child: RegionId, place: Place) -> Result<(), TreeError> {
        self.node(place.parent)?;
        if self.node(child)?.place.is_some() {
            let name = self.name(child);
            return Err(TreeError::AlreadyPlaced { name });
        }
        if self.contains(child, place.parent) {
            return Err(TreeError::Cycle {
                child: self.name(child),
                parent: self.name(place.parent),
            });
        }
        self.placings += 1;
        self.put(child, place, self.placings);
        Ok(())
    }

    /// Removes a region from the one that it lies in. Returns its old place and the
    /// number of its placing.
    pub(crate) fn unplace(&mut self, child: RegionId) -> Result<(Place, u64), TreeError> {
        let node = self.node_mut(child)?;
        let as_child = node.as_child(child);
        let Some(place) = node.place.take() else {
            let name = node.region.name().to_string();
            return Err(TreeError::NotPlaced { name });
        };
        let placing = node.placing;
        if let Some(as_child) = as_child {
            self.node_mut(place.parent)?.children.remove(&as_child);
        }
        Ok((place, placing))
    }

    /// Undoes [`unplace`](Self::unplace), and is the last step of
    /// [`place_at`](Self::place_at).
    pub(crate) fn put(&mut self, child: RegionId, place: Place, placing: u64) {
        let Ok(node) = self.node_mut(child) else {
            return;
        };
        (node.place, node.placing) = (Some(place), placing);
        let as_child = node.as_child(child);
        if let (Ok(parent), Some(as_child)) = (self.node_mut(place.parent), as_child) {
            parent.children.insert(as_child);
        }
    }

    /// Moves a region in the one that it lies in, as the latest placed. Returns its
    /// old place and the number of its placing.
    pub(crate) fn move_to(
        &mut self,
        child: RegionId,
        address: u64,
    ) -> Result<(Place, u64), TreeError> {
        let node = self.node(child)?;
        let Some(place) = node.place else {
            let name = node.region.name().to_string();
            return Err(TreeError::NotPlaced { name });
        };
        self.placings += 1;
        self.put_again(child, Place { address, ..place }, self.placings)
    }

    /// Gives a region another place in the region that it lies in. Returns its old
    /// place and the number of its placing. Undoes [`move_to`](Self::move_to).
    pub(crate) fn put_again(
        &mut self,
        child: RegionId,
        place: Place,
        placing: u64,
    ) -> Result<(Place, u64), TreeError> {
        let node = self.node_mut(child)?;
        let was = node.as_child(child);
        let Some(before) = node.place.replace(place) else {
            node.place = None;
            let name = node.region.name().to_string();
            return Err(TreeError::NotPlaced { name });
        };
        let before = (before, core::mem::replace(&mut node.placing, placing));
        let is = node.as_child(child);
        if let Ok(parent) = self.node_mut(place.parent) {
            was.iter().for_each(|was| parent.children.remove(was));
            is.into_iter().for_each(|is| parent.children.insert(is));
        }
        Ok(before)
    }

    /// Sets a region's switches. Returns the old ones.
    pub(crate) fn switch(&mut self, id: RegionId, to: Switches) -> Result<Switches, TreeError> {
        let node = self.node_mut(id)?;
        Ok(core::mem::replace(&mut node.switches, to))
    }

    /// Replaces the description of a region by another one of the same size. Returns the
    /// old one.
    pub(crate) fn describe(
        &mut self,
        id: RegionId,
        to: Arc<Region<H>>,
    ) -> Result<Arc<Region<H>>, TreeError> {
        let node = self.node_mut(id)?;
        Ok(core::mem::replace(&mut node.region, to))
    }

    /// Sets the clients for which writes to a region are logged. Returns the old ones.
    pub(crate) fn set_logging(
        &mut self,
        id: RegionId,
        to: DirtyClients,
    ) -> Result<DirtyClients, TreeError> {
        let node = self.node_mut(id)?;
        if let Some(why) = Unloggable::of(node.region.kind()) {
            let name = node.region.name().to_string();
            return Err(TreeError::NotLoggable { name, why });
        }
        Ok(core::mem::replace(&mut node.logging, to))
    }

    pub(crate) fn global_logging(&self) -> DirtyClients {
        self.global_logging
    }

    /// Sets the clients for which writes to all memory are logged. Returns the old
    /// ones.
    pub(crate) fn set_global_logging(&mut self, to: DirtyClients) -> DirtyClients {
        core::mem::replace(&mut self.global_logging, to)
    }

    /// Marks a region as the root of an address space.
    pub(crate) fn add_space(&mut self, root: RegionId, space: SpaceId) -> Result<(), TreeError> {
        self.node_mut(root)?.spaces.push(space);
        Ok(())
    }

    /// Unmarks a region as the root of an address space.
    pub(crate) fn remove_space(&mut self, root: RegionId, space: SpaceId) {
        if let Ok(node) = self.node_mut(root) {
            node.spaces.retain(|other| *other != space);
        }
    }
}
