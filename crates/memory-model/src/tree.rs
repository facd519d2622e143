// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The region tree: who lies in whom, where, and who wins.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::{Kind, Region, RegionId, Switches, TreeError, Use};

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
    pub(crate) switches: Switches,
    pub(crate) place: Option<Place>,
    /// The winner first: priority downwards, the latest first among equals.
    pub(crate) children: Vec<RegionId>,
    /// How many aliases and address spaces name this region.
    aliases: u32,
    roots: u32,
}

/// All regions of a model, placed or not. It is read through
/// [`MemoryModel::tree`](crate::MemoryModel::tree) and changed by a
/// [`Transaction`](crate::Transaction).
#[derive(Debug)]
pub struct Tree<H> {
    seats: Vec<Seat<H>>,
    /// The seats that nobody has, to be used again.
    free: Vec<u32>,
}

/// A place in the table of regions. It serves one region after the other, each
/// under a generation of its own, so that an id never names two regions.
#[derive(Debug)]
struct Seat<H> {
    node: Option<(u32, Node<H>)>,
    next_generation: u32,
}

impl<H> Tree<H> {
    pub(crate) fn new() -> Self {
        Self {
            seats: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn node(&self, id: RegionId) -> Result<&Node<H>, TreeError> {
        match self.seats.get(id.index as usize) {
            Some(Seat {
                node: Some((generation, node)),
                ..
            }) if *generation == id.generation => Ok(node),
            _ => Err(TreeError::NoSuchRegion(id)),
        }
    }

    fn node_mut(&mut self, id: RegionId) -> Result<&mut Node<H>, TreeError> {
        match self.seats.get_mut(id.index as usize) {
            Some(Seat {
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
    pub fn region(&self, id: RegionId) -> Result<&Region<H>, TreeError> {
        Ok(&self.node(id)?.region)
    }

    /// The region's switches, without what it inherits.
    pub fn switches(&self, id: RegionId) -> Result<Switches, TreeError> {
        Ok(self.node(id)?.switches)
    }

    /// Where the region lies, if it lies anywhere.
    pub fn place(&self, id: RegionId) -> Result<Option<Place>, TreeError> {
        Ok(self.node(id)?.place)
    }

    /// The regions in this one, the winner first.
    pub fn children(&self, id: RegionId) -> Result<&[RegionId], TreeError> {
        Ok(&self.node(id)?.children)
    }

    /// Every region below and including `root` with its depth, parents before
    /// their children, children by address. Aliases are not followed.
    pub fn walk(&self, root: RegionId) -> Vec<(usize, RegionId)> {
        let mut out = Vec::new();
        let mut stack = vec![(0, root)];
        while let Some((depth, id)) = stack.pop() {
            let Ok(node) = self.node(id) else { continue };
            out.push((depth, id));
            let address = |id: &RegionId| self.node(*id).ok()?.place.map(|p| p.address);
            let mut children = node.children.clone();
            children.sort_by_key(address);
            stack.extend(children.into_iter().rev().map(|id| (depth + 1, id)));
        }
        out
    }

    /// Adds a region that lies nowhere yet.
    pub(crate) fn add(&mut self, region: Region<H>) -> Result<RegionId, TreeError> {
        if region.size() == 0 || region.size() > 1 << 64 {
            return Err(TreeError::BadSize {
                name: region.name().into(),
                size: region.size(),
            });
        }
        if let Kind::Alias { target, .. } = region.kind() {
            self.node_mut(*target)?.aliases += 1;
        }
        let node = Node {
            switches: region.switches,
            region: Arc::new(region),
            place: None,
            children: Vec::new(),
            aliases: 0,
            roots: 0,
        };
        Ok(self.sit(node))
    }

    /// Gives a region a seat, and with it its id.
    fn sit(&mut self, node: Node<H>) -> RegionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat {
                node: None,
                next_generation: 0,
            });
            u32::try_from(self.seats.len() - 1).expect("2^32 regions do not fit in memory")
        });
        let seat = &mut self.seats[index as usize];
        let generation = seat.next_generation;
        seat.next_generation = generation.saturating_add(1);
        seat.node = Some((generation, node));
        RegionId { index, generation }
    }

    /// Takes a region from its seat.
    fn stand_up(&mut self, id: RegionId) -> Result<Node<H>, TreeError> {
        self.node(id)?;
        let seat = &mut self.seats[id.index as usize];
        let (_, node) = seat.node.take().ok_or(TreeError::NoSuchRegion(id))?;
        // A seat whose generations have run out stays empty.
        if seat.next_generation != u32::MAX {
            self.free.push(id.index);
        }
        self.release_target(&node);
        Ok(node)
    }

    /// Undoes [`add`](Self::add).
    pub(crate) fn undo_add(&mut self, id: RegionId) {
        // Whatever was done with the region since then is undone already.
        drop(self.stand_up(id));
    }

    /// Takes a region out of the model that nothing else needs.
    pub(crate) fn remove(&mut self, id: RegionId) -> Result<Node<H>, TreeError> {
        let node = self.node(id)?;
        let by = match node {
            Node { place: Some(_), .. } => Some(Use::Placed),
            Node { aliases: 1.., .. } => Some(Use::AliasTarget),
            Node { roots: 1.., .. } => Some(Use::Root),
            _ if !node.children.is_empty() => Some(Use::HasChildren),
            _ => None,
        };
        if let Some(by) = by {
            let name = self.name(id);
            return Err(TreeError::InUse { name, by });
        }
        self.stand_up(id)
    }

    fn release_target(&mut self, node: &Node<H>) {
        if let Kind::Alias { target, .. } = *node.region.kind() {
            if let Ok(target) = self.node_mut(target) {
                target.aliases -= 1;
            }
        }
    }

    /// Undoes [`remove`](Self::remove).
    pub(crate) fn restore(&mut self, id: RegionId, node: Node<H>) {
        if let Kind::Alias { target, .. } = *node.region.kind() {
            if let Ok(target) = self.node_mut(target) {
                target.aliases += 1;
            }
        }
        self.free.retain(|&index| index != id.index);
        self.seats[id.index as usize].node = Some((id.generation, node));
    }

    /// Puts a region that lies nowhere into another.
    pub(crate) fn place_at(&mut self, child: RegionId, place: Place) -> Result<(), TreeError> {
        self.node(place.parent)?;
        if self.node(child)?.place.is_some() {
            let name = self.name(child);
            return Err(TreeError::AlreadyPlaced { name });
        }
        if self.reaches(child, place.parent) {
            return Err(TreeError::Cycle {
                child: self.name(child),
                parent: self.name(place.parent),
            });
        }
        let siblings = &self.node(place.parent)?.children;
        let wins_over_child = |id: &RegionId| {
            let sibling = self.node(*id).ok().and_then(|n| n.place);
            sibling.is_some_and(|p| p.priority > place.priority)
        };
        let position = siblings.partition_point(wins_over_child);
        self.insert_child(child, place, position);
        Ok(())
    }

    /// Takes a region out of the one it lies in; says where among its siblings
    /// it was.
    pub(crate) fn unplace(&mut self, child: RegionId) -> Result<(Place, usize), TreeError> {
        let Some(place) = self.node(child)?.place else {
            let name = self.name(child);
            return Err(TreeError::NotPlaced { name });
        };
        let siblings = &mut self.node_mut(place.parent)?.children;
        let position = siblings.iter().position(|&id| id == child);
        let position = position.ok_or(TreeError::NoSuchRegion(child))?;
        siblings.remove(position);
        self.node_mut(child)?.place = None;
        Ok((place, position))
    }

    /// Undoes [`unplace`](Self::unplace), and is the last step of
    /// [`place_at`](Self::place_at).
    pub(crate) fn insert_child(&mut self, child: RegionId, place: Place, position: usize) {
        if let Ok(parent) = self.node_mut(place.parent) {
            parent.children.insert(position, child);
        }
        if let Ok(child) = self.node_mut(child) {
            child.place = Some(place);
        }
    }

    /// Sets a region's switches; says what they were.
    pub(crate) fn switch(&mut self, id: RegionId, to: Switches) -> Result<Switches, TreeError> {
        let node = self.node_mut(id)?;
        let rom_device = matches!(node.region.kind(), Kind::RomDevice(_));
        if !rom_device && to.direct_reads != node.switches.direct_reads {
            let name = node.region.name().to_string();
            return Err(TreeError::NotRomDevice { name });
        }
        Ok(core::mem::replace(&mut node.switches, to))
    }

    /// Marks a region as the root of one address space more.
    pub(crate) fn hold_root(&mut self, id: RegionId) -> Result<(), TreeError> {
        self.node_mut(id)?.roots += 1;
        Ok(())
    }

    /// Whether `to` is `from`, or lies in it, or is shown in it by an alias.
    fn reaches(&self, from: RegionId, to: RegionId) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack = vec![from];
        while let Some(id) = stack.pop() {
            if id == to {
                return true;
            }
            let Ok(node) = self.node(id) else { continue };
            if !seen.insert(id) {
                continue;
            }
            stack.extend(&node.children);
            if let Kind::Alias { target, .. } = *node.region.kind() {
                stack.push(target);
            }
        }
        false
    }
}
