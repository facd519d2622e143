// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where in the address spaces a change of the tree can show: the addresses
//! that have to be rendered anew.

use smallvec::SmallVec;

use crate::tree::Tree;
use crate::{AddrRange, Kind, RegionId, SpaceId};

/// How many regions are visited for one change before everything counts as
/// changed. Only a region that is shown by ever so many aliases has as many.
const MAX_VISITS: u32 = 1 << 16;

/// Addresses by address space.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// In no order, and with overlaps.
    all: SmallVec<[Window; 4]>,
    /// How many they were when they were last put in order.
    in_order: usize,
    /// It is not known which: all of all spaces.
    everything: bool,
}

/// One or two parts of a region. What is moved shows in two places, and both
/// are followed at once.
type Parts = [Option<AddrRange>; 2];

/// How far windows had come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    all: usize,
    in_order: usize,
    everything: bool,
}

/// An address space, and some of its addresses.
pub(crate) type Window = (SpaceId, AddrRange);

/// Addresses as few ranges, by address.
pub(crate) type Ranges = SmallVec<[AddrRange; 4]>;

impl Windows {
    /// Adds the addresses at which `part` of a region shows, if the region and
    /// all around it are enabled.
    pub(crate) fn add<H>(&mut self, tree: &Tree<H>, id: RegionId, part: AddrRange) {
        self.add_parts(tree, id, [Some(part), None]);
    }

    fn add_parts<H>(&mut self, tree: &Tree<H>, id: RegionId, parts: Parts) {
        let mut visits = 0;
        let mut next = Some((id, parts));
        let mut aliases: SmallVec<[(RegionId, Parts); 2]> = SmallVec::new();
        while let Some((id, parts)) = next.take().or_else(|| aliases.pop()) {
            visits += 1;
            if visits > MAX_VISITS {
                self.add_everything();
                return;
            }
            let Ok(node) = tree.node(id) else { continue };
            let parts = each(parts, |part| node.offsets.intersect(part));
            if parts == [None; 2] || !node.switches.enabled {
                continue;
            }
            for space in &node.spaces {
                for part in parts.into_iter().flatten() {
                    self.push((*space, part));
                }
            }
            if let Some(place) = node.place {
                let around = each(parts, |part| part.moved_up(place.address));
                next = Some((place.parent, around));
            }
            for &alias in &node.aliases {
                if let Ok(Kind::Alias { offset, .. }) = tree.region(alias).map(|r| r.kind()) {
                    let shown = each(parts, |part| part.moved_down(*offset));
                    aliases.push((alias, shown));
                }
            }
        }
    }

    /// Adds the addresses at which a region shows.
    pub(crate) fn add_region<H>(&mut self, tree: &Tree<H>, id: RegionId) {
        self.add(tree, id, AddrRange::ALL);
    }

    /// Adds the addresses at which a region shows in the one that it lies in.
    pub(crate) fn add_placed<H>(&mut self, tree: &Tree<H>, id: RegionId) {
        let Ok(node) = tree.node(id) else { return };
        let Some(place) = node.place else { return };
        if node.switches.enabled {
            if let Some(range) = node.offsets.moved_up(place.address) {
                self.add(tree, place.parent, range);
            }
        }
    }

    /// Adds the addresses at which a region shows in the one that it lies in,
    /// and at which it showed when it lay at `before`.
    pub(crate) fn add_moved<H>(&mut self, tree: &Tree<H>, id: RegionId, before: u64) {
        let Ok(node) = tree.node(id) else { return };
        let Some(place) = node.place else { return };
        if node.switches.enabled {
            let at = |address| node.offsets.moved_up(address);
            self.add_parts(tree, place.parent, [at(before), at(place.address)]);
        }
    }

    /// Adds all addresses of all spaces.
    pub(crate) fn add_everything(&mut self) {
        self.everything = true;
    }

    /// A mark to go back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            all: self.all.len(),
            in_order: self.in_order,
            everything: self.everything,
        }
    }

    /// Forgets what was added since then, if that can still be told apart: it
    /// costs something to have too many, and changes nothing.
    pub(crate) fn go_back_to(&mut self, mark: Mark) {
        self.everything = mark.everything;
        if self.in_order == mark.in_order {
            self.all.truncate(mark.all);
        }
    }

    fn push(&mut self, window: Window) {
        // However often the same is changed, it takes no more room.
        if self.all.len() > 64 && self.all.len() > 2 * self.in_order {
            put_in_order(&mut self.all);
            self.in_order = self.all.len();
        }
        self.all.push(window);
    }

    /// The spaces that have changed, and where, by id. `spaces` are all of them.
    pub(crate) fn by_space(
        &mut self,
        spaces: impl Iterator<Item = SpaceId>,
    ) -> SmallVec<[(SpaceId, Ranges); 1]> {
        if self.everything {
            self.all = spaces.map(|space| (space, AddrRange::ALL)).collect();
        }
        put_in_order(&mut self.all);
        let mut by_space: SmallVec<[(SpaceId, Ranges); 1]> = SmallVec::new();
        for &(space, range) in &self.all {
            match by_space.last_mut() {
                Some((latest, ranges)) if *latest == space => ranges.push(range),
                _ => by_space.push((space, Ranges::from_iter([range]))),
            }
        }
        by_space
    }
}

/// Both, as `f` makes of each.
#[inline]
fn each(parts: Parts, f: impl Fn(AddrRange) -> Option<AddrRange>) -> Parts {
    parts.map(|part| part.and_then(&f))
}

/// Sorts windows and joins those that overlap or are adjacent.
fn put_in_order(all: &mut SmallVec<[Window; 4]>) {
    all.sort_unstable();
    all.dedup_by(|next, before| {
        let adjacent = before.1.last().saturating_add(1);
        let joins = before.0 == next.0 && next.1.start() <= adjacent;
        if joins {
            let last = before.1.last().max(next.1.last());
            before.1 = AddrRange::from_bounds(before.1.start(), last).unwrap_or(before.1);
        }
        joins
    });
}
