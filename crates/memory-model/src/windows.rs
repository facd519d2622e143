// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where in the address spaces a change of the tree can show: the addresses
//! that have to be rendered anew.

use alloc::collections::BTreeMap;
use alloc::vec;

use crate::range_set::RangeSet;
use crate::tree::Tree;
use crate::{AddrRange, Kind, RegionId, SpaceId};

/// How many regions are visited for one change before everything counts as
/// changed. Only a region that is shown by ever so many aliases has as many.
const MAX_VISITS: u32 = 1 << 16;

/// Addresses by address space.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    by_space: BTreeMap<SpaceId, RangeSet>,
    /// It is not known which: all of all spaces.
    everything: bool,
}

impl Windows {
    /// Adds the addresses at which `part` of a region shows, if the region and
    /// all around it are enabled.
    pub(crate) fn add<H>(&mut self, tree: &Tree<H>, id: RegionId, part: AddrRange) {
        let mut visits = 0;
        let mut stack = vec![(id, part)];
        while let Some((id, part)) = stack.pop() {
            visits += 1;
            if visits > MAX_VISITS {
                self.add_everything();
                return;
            }
            let Ok(node) = tree.node(id) else { continue };
            let own = AddrRange::clamp(0, node.region.size());
            let Some(part) = own.and_then(|own| own.intersect(part)) else {
                continue;
            };
            if !node.switches.enabled {
                continue;
            }
            for space in &node.spaces {
                self.by_space.entry(*space).or_default().insert(part);
            }
            let start = i128::from(part.start());
            if let Some(place) = node.place {
                let around = AddrRange::clamp(start + i128::from(place.address), part.size());
                stack.extend(around.map(|part| (place.parent, part)));
            }
            for &alias in &node.aliases {
                if let Ok(Kind::Alias { offset, .. }) = tree.region(alias).map(|r| r.kind()) {
                    let window = AddrRange::clamp(start - i128::from(*offset), part.size());
                    stack.extend(window.map(|part| (alias, part)));
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
            let range = AddrRange::clamp(place.address.into(), node.region.size());
            range
                .into_iter()
                .for_each(|range| self.add(tree, place.parent, range));
        }
    }

    /// Adds all addresses of all spaces.
    pub(crate) fn add_everything(&mut self) {
        self.everything = true;
    }

    /// Adds the addresses that another has.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.everything |= other.everything;
        for (space, ranges) in &other.by_space {
            let own = self.by_space.entry(*space).or_default();
            ranges.iter().for_each(|range| own.insert(range));
        }
    }

    /// The spaces that have changed, and where. `spaces` is how many there are.
    pub(crate) fn into_spaces(mut self, spaces: usize) -> BTreeMap<SpaceId, RangeSet> {
        if self.everything {
            for space in (0..spaces).map(SpaceId) {
                self.by_space
                    .entry(space)
                    .or_default()
                    .insert(AddrRange::ALL);
            }
        }
        self.by_space
    }
}
