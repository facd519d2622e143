// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows: the addresses of the spaces at which a change of the tree can show, and
//! which have to be rendered again.

use guest_ranges::AddrRange;
use smallvec::{SmallVec, smallvec};

use crate::ids::RegionId;
use crate::ids::SpaceId;
use crate::region::Kind;
use crate::render;
use crate::render::coalesce::coalesce_windows;
use crate::render::extents::{Extents, Ranges, join};
use crate::tree::Tree;

/// The number of regions visited for one change before everything counts as changed.
/// Only a region with a huge number of aliases needs as many.
const MAX_VISITS: u32 = 1 << 16;

/// Addresses by address space.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// In any order, and with overlaps.
    all: SmallVec<[Window; 4]>,
    /// The number of windows when they were last sorted.
    in_order: usize,
    /// All addresses of all spaces count as changed.
    everything: bool,
}

/// One or two parts of a region. A region that moves has two places, which are
/// followed together.
type Parts = [Option<AddrRange>; 2];

/// A state of [`Windows`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    all: usize,
    in_order: usize,
    everything: bool,
}

/// A region that shows only at its extents, and where it lies in the region that is
/// visited first.
struct Inner {
    extents: Extents,
    at: [u64; 2],
    /// How many regions may still be visited and windows added. A change that needs
    /// more either cannot be rendered, which visits the same regions, or shows in so
    /// many spaces that all may count as changed.
    left: u64,
}

/// An address space, and some of its addresses.
pub(crate) type Window = (SpaceId, AddrRange);

impl Windows {
    /// Adds the addresses at which `part` of a region shows, if the region and
    /// all regions around it are enabled.
    pub(crate) fn add<H>(&mut self, tree: &Tree<H>, id: RegionId, part: AddrRange) {
        self.add_parts(tree, id, [Some(part), None], None);
    }

    /// Adds the addresses at which a region shows, if the region and all regions
    /// around it are enabled.
    pub(crate) fn add_region<H>(&mut self, tree: &Tree<H>, id: RegionId) {
        match tree.node(id) {
            Ok(node) if !node.region.kind().terminates() => {
                self.add_inner(tree, id, [Some(0), None], id);
            }
            _ => self.add(tree, id, AddrRange::ALL),
        }
    }

    /// Adds the addresses at which a region shows in the one that it lies in.
    pub(crate) fn add_placed<H>(&mut self, tree: &Tree<H>, id: RegionId) {
        self.add_places(tree, id, None);
    }

    /// Adds the addresses at which a region shows in the one that it lies in, and at
    /// which it showed when it was at `before`.
    pub(crate) fn add_moved<H>(&mut self, tree: &Tree<H>, id: RegionId, before: u64) {
        self.add_places(tree, id, Some(before));
    }

    /// Adds where a region shows, and where it showed when it was at `before`.
    fn add_places<H>(&mut self, tree: &Tree<H>, id: RegionId, before: Option<u64>) {
        let Ok(node) = tree.node(id) else { return };
        let Some(place) = node.place else { return };
        if !node.switches.enabled {
            return;
        }
        let at = [before, Some(place.address)];
        if !node.region.kind().terminates() {
            return self.add_inner(tree, id, at, place.parent);
        }
        let parts = at.map(|at| at.and_then(|at| node.offsets.moved_up(at)));
        self.add_parts(tree, place.parent, parts, None);
    }

    /// Adds the extents of a region that does not answer itself, at one or two places
    /// in the region `around` it, or in itself.
    #[inline(never)]
    fn add_inner<H>(
        &mut self,
        tree: &Tree<H>,
        id: RegionId,
        at: [Option<u64>; 2],
        around: RegionId,
    ) {
        let Ok(node) = tree.node(id) else { return };
        let parts = at.map(|at| at.and_then(|at| node.offsets.moved_up(at)));
        let mut inner = Inner {
            extents: Extents::of(id),
            at: at.map(Option::unwrap_or_default),
            left: render::MAX_VISITS,
        };
        self.add_parts(tree, around, parts, Some(&mut inner));
    }

    /// Adds the addresses at which parts of a region show, or the extents of an inner
    /// region there.
    fn add_parts<H>(
        &mut self,
        tree: &Tree<H>,
        id: RegionId,
        parts: Parts,
        mut inner: Option<&mut Inner>,
    ) {
        let mut visits = 0;
        let mut next = Some((id, parts, 0_u64));
        let mut aliases: SmallVec<[(RegionId, Parts, u64); 2]> = SmallVec::new();
        while let Some((id, parts, up)) = next.take().or_else(|| aliases.pop()) {
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
            match &mut inner {
                Some(inner) if !node.spaces.is_empty() => {
                    let added = self.push_inner(tree, id, &node.spaces, parts, inner, up);
                    if added.is_none() {
                        self.add_everything();
                        return;
                    }
                }
                Some(_) => {}
                None => {
                    for space in &node.spaces {
                        for part in parts.into_iter().flatten() {
                            self.push((*space, part));
                        }
                    }
                }
            }
            if let Some(place) = node.place {
                let around = each(parts, |part| part.moved_up(place.address));
                next = Some((place.parent, around, up.wrapping_add(place.address)));
            }
            for &alias in &node.aliases {
                if let Ok(Kind::Alias { offset, .. }) = tree.region(alias).map(|r| r.kind()) {
                    let shown = each(parts, |part| part.moved_down(*offset));
                    aliases.push((alias, shown, up.wrapping_sub(*offset)));
                }
            }
        }
    }

    /// Adds the extents of the inner region in `parts` of the spaces with this root.
    /// Each part has been moved `up`, modulo 2^64. `None` if there are too many.
    #[inline(never)]
    fn push_inner<H>(
        &mut self,
        tree: &Tree<H>,
        root: RegionId,
        spaces: &[SpaceId],
        parts: Parts,
        inner: &mut Inner,
        up: u64,
    ) -> Option<()> {
        for (part, at) in parts.into_iter().zip(inner.at) {
            let by = up.wrapping_add(at);
            let shown = part.and_then(|part| part.wrapped_up(by.wrapping_neg()));
            let Some(shown) = shown else { continue };
            let extents = inner.extents.within(tree, shown, &mut inner.left)?;
            let windows = extents.iter().filter_map(|e| e.wrapped_up(by));
            let mut windows: Ranges = windows.collect();
            coalesce_windows(tree, root, &mut windows);
            for &space in spaces {
                inner.left = inner.left.checked_sub(windows.len() as u64)?;
                windows
                    .iter()
                    .for_each(|window| self.push((space, *window)));
            }
        }
        Some(())
    }

    /// Adds all addresses of all spaces.
    pub(crate) fn add_everything(&mut self) {
        self.everything = true;
    }

    /// A mark for [`roll_back_to`](Self::roll_back_to).
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            all: self.all.len(),
            in_order: self.in_order,
            everything: self.everything,
        }
    }

    /// Drops the windows added since `mark`, if they are still separate. Windows
    /// that stay cost time and change nothing.
    pub(crate) fn roll_back_to(&mut self, mark: Mark) {
        self.everything = mark.everything;
        if self.in_order == mark.in_order {
            self.all.truncate(mark.all);
        }
    }

    fn push(&mut self, window: Window) {
        // Changing the same addresses repeatedly takes no more memory.
        if self.all.len() > 64 && self.all.len() > 2 * self.in_order {
            put_in_order(&mut self.all);
            self.in_order = self.all.len();
        }
        self.all.push(window);
    }

    /// The windows by space, sorted by id. `spaces` are all spaces of the model.
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
                _ => by_space.push((space, smallvec![range])),
            }
        }
        by_space
    }
}

/// Applies `f` to both parts.
#[inline]
fn each(parts: Parts, f: impl Fn(AddrRange) -> Option<AddrRange>) -> Parts {
    parts.map(|part| part.and_then(&f))
}

/// Sorts windows and joins those that overlap or are adjacent.
fn put_in_order(all: &mut SmallVec<[Window; 4]>) {
    // Two windows, as of a region that has moved, need no sort.
    match all[..] {
        [a, b] if a > b => all.swap(0, 1),
        [_, _] => {}
        _ => all.sort_unstable(),
    }
    all.dedup_by(|next, before| before.0 == next.0 && join(&mut before.1, next.1));
}
