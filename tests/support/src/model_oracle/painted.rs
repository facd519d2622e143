// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A deliberately simple model of a region tree. It finds the region that
//! answers at one address at a time, without ranges, clipping or merging.

use memory_model::{DirtyClients, GuestAccess, RegionId, Switches};

use super::attached::Attached;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Container,
    Reservation,
    Mmio,
    Ram,
    Rom,
    RomDevice,
    DeviceRam,
    PrivateMmio,
    Alias { target: usize, offset: u64 },
}

#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub parent: usize,
    pub address: u64,
    pub priority: i32,
    /// Grows with every placement.
    pub when: u64,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub id: RegionId,
    pub what: What,
    pub size: u128,
    pub switches: Switches,
    pub logging: DirtyClients,
    pub attached: Attached,
    pub spot: Option<Spot>,
    pub removed: bool,
}

/// The region that answers an access, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub node: usize,
    pub offset: u64,
    pub access: GuestAccess,
    pub readonly: bool,
    pub nonvolatile: bool,
    pub unmergeable: bool,
    pub logged: DirtyClients,
}

#[derive(Clone, Debug, Default)]
pub struct Painted {
    pub nodes: Vec<Node>,
    pub roots: Vec<usize>,
    /// The clients for which all memory is logged.
    pub logging: DirtyClients,
    /// Ids from transactions that were undone.
    pub undone: Vec<RegionId>,
    clock: u64,
}

impl What {
    /// Whether this is host memory to which only the VMM and the guest write.
    pub fn loggable(self) -> bool {
        matches!(self, What::Ram | What::Rom | What::RomDevice)
    }
}

impl Painted {
    /// Restores an earlier state, but remembers the ids that were undone.
    pub fn roll_back_to(&mut self, before: Painted) {
        let mut undone = core::mem::take(&mut self.undone);
        let added = self.nodes.drain(..).skip(before.nodes.len());
        undone.extend(added.map(|node| node.id));
        *self = Painted { undone, ..before };
    }

    pub fn place(&mut self, child: usize, parent: usize, address: u64, priority: i32) {
        self.clock += 1;
        self.nodes[child].spot = Some(Spot {
            parent,
            address,
            priority,
            when: self.clock,
        });
    }

    /// The children of each region, by descending priority.
    pub fn children(&self) -> Vec<Vec<usize>> {
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            if let (Some(spot), false) = (node.spot, node.removed) {
                children[spot.parent].push((spot.priority, spot.when, index));
            }
        }
        let winner_first = |mut siblings: Vec<(i32, u64, usize)>| {
            siblings.sort_unstable();
            siblings.iter().rev().map(|&(_, _, child)| child).collect()
        };
        children.into_iter().map(winner_first).collect()
    }

    /// Whether `from` contains `to`, directly or through others, or is equal to
    /// it.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let below = |n: usize| {
            let in_it =
                move |node: &Node| !node.removed && node.spot.is_some_and(|s| s.parent == n);
            let children = self.nodes.iter().enumerate().filter(move |(_, c)| in_it(c));
            children.map(|(index, _)| index)
        };
        let through = match self.nodes[from].what {
            What::Alias { target, .. } => Some(target),
            _ => None,
        };
        from == to || below(from).chain(through).any(|n| self.reaches(n, to))
    }

    /// Whether something refers to the region.
    pub fn in_use(&self, index: usize) -> bool {
        let needs = |node: &Node| {
            let shows = matches!(node.what, What::Alias { target, .. } if target == index);
            !node.removed && (shows || node.spot.is_some_and(|s| s.parent == index))
        };
        self.nodes[index].spot.is_some()
            || self.roots.contains(&index)
            || !self.nodes[index].attached.is_empty()
            || self.nodes.iter().any(needs)
    }
}

/// Queries a [`Painted`] model, with the children of each region sorted once.
pub struct Asking<'a> {
    painted: &'a Painted,
    children: Vec<Vec<usize>>,
}

impl<'a> Asking<'a> {
    pub fn of(painted: &'a Painted) -> Self {
        let children = painted.children();
        Self { painted, children }
    }

    /// The region that answers at `address` of the space with this root.
    pub fn who(&self, root: usize, address: u64) -> Option<Answer> {
        self.who_in(root, address.into(), [false; 3])
    }

    /// The region that answers at offset `at` of `node`, with the switches
    /// `readonly`, `nonvolatile` and `unmergeable` of its ancestors.
    fn who_in(&self, index: usize, at: i128, outer: [bool; 3]) -> Option<Answer> {
        let node = &self.painted.nodes[index];
        let s = node.switches;
        if !s.enabled || u128::try_from(at).map_or(true, |at| at >= node.size) {
            return None;
        }
        let own = [s.readonly, s.nonvolatile, s.unmergeable];
        let flags = [0, 1, 2].map(|i| outer[i] || own[i]);
        if let What::Alias { target, offset } = node.what {
            return self.who_in(target, at + i128::from(offset), flags);
        }
        for &child in &self.children[index] {
            let address = self.painted.nodes[child].spot.map_or(0, |s| s.address);
            let answer = self.who_in(child, at - i128::from(address), flags);
            if answer.is_some() {
                return answer;
            }
        }
        let access = match node.what {
            What::Container | What::Alias { .. } => return None,
            What::Reservation | What::Mmio => GuestAccess::Trap,
            What::RomDevice if !s.direct_reads => GuestAccess::Trap,
            What::RomDevice => GuestAccess::ReadTrapWrite,
            What::Rom => GuestAccess::ReadOnly,
            _ if flags[0] => GuestAccess::ReadOnly,
            What::Ram | What::DeviceRam | What::PrivateMmio => GuestAccess::ReadWrite,
        };
        Some(Answer {
            node: index,
            offset: u64::try_from(at).ok()?,
            access,
            readonly: flags[0],
            nonvolatile: flags[1],
            unmergeable: flags[2],
            logged: match node.what.loggable() {
                true => node.logging | self.painted.logging,
                false => DirtyClients::NONE,
            },
        })
    }
}
