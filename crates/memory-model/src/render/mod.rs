// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Renders the region tree to a flat view. A pure function.
//!
//! Rendering goes depth first, and to the winner among siblings first. Each region
//! that answers accesses then fills the addresses that are still free. Children
//! therefore cover their parent, higher priorities cover lower ones, and what lies
//! outside of its parent is cut off.

mod coalesce;
pub(crate) mod extents;
mod occupied;
pub(crate) mod update;
pub(crate) mod windows;

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::ids::RegionId;
use crate::region::{GuestAccess, Kind, Switches};
use crate::render::occupied::Occupied;
use crate::tree::Tree;
use crate::tree::child::Child;
use crate::tree::node::Node;
use crate::view::flat_range::{Attributes, FlatRange};

/// The number of regions that a rendering visits before it gives up. Only aliases of
/// aliases that each show the next one twice come near it.
pub(crate) const MAX_VISITS: u64 = 1 << 22;

/// Rendering took more than [`MAX_VISITS`] steps.
#[derive(Debug)]
pub(crate) struct TooComplex;

/// A region to visit.
struct Seen {
    id: RegionId,
    /// The offsets in it that can show.
    offsets: AddrRange,
    /// The difference between addresses and offsets, modulo 2^64: the target of an
    /// alias can start below address 0.
    base: u64,
    /// The inherited switches, later combined with its own.
    switches: Switches,
}

enum Step {
    /// Visit a region.
    Visit(Seen),
    /// Fill the free addresses with the region, after all its children.
    Fill(Seen),
}

/// The remaining steps, the next one last. The inline size is enough for a window of a
/// usual machine.
type Steps = SmallVec<[Step; 8]>;

/// Emits the runs that the tree below `root`, which lies at address 0, shows in
/// `window`, by address. Neighbours are not joined yet.
#[inline]
pub(crate) fn render<H>(
    tree: &Tree<H>,
    root: RegionId,
    window: AddrRange,
    emit: impl FnMut(FlatRange<H>),
) -> Result<(), TooComplex> {
    let mut occupied = Occupied::new();
    let mut visits = 0;
    let mut steps = Steps::new();
    let mut next = Some(Seen {
        id: root,
        offsets: window,
        base: 0,
        switches: Switches::default(),
    });
    loop {
        let seen = match next.take().map(Step::Visit).or_else(|| steps.pop()) {
            None => break,
            Some(Step::Fill(seen)) => {
                if let Ok(node) = tree.node(seen.id) {
                    fill(tree, &mut occupied, node, &seen);
                }
                continue;
            }
            Some(Step::Visit(seen)) => seen,
        };
        visits += 1;
        if visits > MAX_VISITS {
            return Err(TooComplex);
        }
        next = visit(tree, seen, &mut steps, &mut occupied);
    }
    occupied.for_each(emit);
    Ok(())
}

/// Pushes the steps for a region: first its children, then itself. Returns the region
/// to visit next.
#[inline]
fn visit<H>(
    tree: &Tree<H>,
    seen: Seen,
    steps: &mut Steps,
    occupied: &mut Occupied<H>,
) -> Option<Seen> {
    let node = tree.node(seen.id).ok()?;
    if !node.switches.enabled {
        return None;
    }
    let seen = Seen {
        offsets: node.offsets.intersect(seen.offsets)?,
        switches: inherit(seen.switches, node.switches),
        ..seen
    };

    if let Kind::Alias { target, offset } = *node.region.kind() {
        // The target shows as if it started `offset` bytes before the alias, wherever
        // it is placed itself.
        return Some(Seen {
            id: target,
            offsets: seen.offsets.moved_up(offset)?,
            base: seen.base.wrapping_sub(offset),
            switches: seen.switches,
        });
    }

    if node.children.is_empty() {
        fill(tree, occupied, node, &seen);
        return None;
    }
    // Only the children that reach into the offsets can show.
    let children = node.children.reaching_into(seen.offsets);
    let (first, others) = match children.split_first() {
        Some(parts) => parts,
        None => {
            fill(tree, occupied, node, &seen);
            return None;
        }
    };
    let (offsets, base, switches) = (seen.offsets, seen.base, seen.switches);
    let child = |child: &Child| {
        let at = child.range.start();
        Some(Seen {
            id: child.id,
            offsets: child.range.intersect(offsets)?.moved_down(at)?,
            base: base.wrapping_add(at),
            switches,
        })
    };
    if node.region.kind().terminates() {
        steps.push(Step::Fill(seen));
    }
    for other in others.iter().rev().filter_map(child) {
        steps.push(Step::Visit(other));
    }
    child(first)
}

/// A region's switches combined with the inherited ones.
fn inherit(outer: Switches, own: Switches) -> Switches {
    Switches {
        readonly: outer.readonly || own.readonly,
        nonvolatile: outer.nonvolatile || own.nonvolatile,
        unmergeable: outer.unmergeable || own.unmergeable,
        ..own
    }
}

/// Adds runs of a region at every free address at which it can show.
fn fill<H>(tree: &Tree<H>, occupied: &mut Occupied<H>, node: &Node<H>, seen: &Seen) {
    let Some(access) = GuestAccess::of(node.region.kind(), seen.switches) else {
        return;
    };
    let logged = node.logged(tree.global_logging());
    let attributes = Attributes::of(access, seen.switches, logged);
    let (start, last) = (
        seen.offsets.start().wrapping_add(seen.base),
        seen.offsets.last().wrapping_add(seen.base),
    );
    let Some(clip) = AddrRange::from_bounds(start, last) else {
        return;
    };
    for range in occupied.gaps(clip) {
        occupied.insert(FlatRange {
            range,
            id: seen.id,
            region: node.region.clone(),
            offset: range.start().wrapping_sub(seen.base),
            attributes,
        });
    }
}

#[cfg(test)]
mod tests;
