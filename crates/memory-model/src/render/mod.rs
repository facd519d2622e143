// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the region tree to the flat view: a pure function.
//!
//! Depth first, the winner among siblings first; each region that answers
//! accesses then fills only what its betters left open. So children cover
//! their parent, higher priorities cover lower ones, and whatever lies outside
//! its parent is cut off.

mod coalesce;
mod extents;
mod occupied;
pub(crate) mod update;
pub(crate) mod windows;

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::region::{GuestAccess, Kind, RegionId, Switches};
use crate::render::occupied::Occupied;
use crate::tree::Tree;
use crate::tree::children::Child;
use crate::tree::node::Node;
use crate::view::{Attributes, FlatRange};

/// How many regions one rendering visits before it gives up. Only aliases of
/// aliases, each showing the next one twice, come near it.
pub(crate) const MAX_VISITS: u64 = 1 << 22;

/// Rendering took more than [`MAX_VISITS`] steps.
#[derive(Debug)]
pub(crate) struct TooComplex;

/// A region that can show.
struct Seen {
    id: RegionId,
    /// The offsets in it that can show.
    offsets: AddrRange,
    /// What has to be added to offsets for addresses: modulo 2^64, since an
    /// alias can have its target begin below the first address.
    base: u64,
    /// The switches of what is around it, or with its own.
    switches: Switches,
}

enum Step {
    /// Look at a region.
    Visit(Seen),
    /// All children of the region are rendered: it takes what is left.
    Fill(Seen),
}

/// What is still to be done, the next at the end: enough for a window of a
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

/// Plans what to do for a region: first what lies in it, then itself. Returns
/// what has to be visited next.
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
        // The target is shown as if it started `offset` bytes before the
        // alias, wherever it lies itself.
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
    // Only those children are looked at that reach into what is asked for.
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

/// A region's switches together with those around it.
fn inherit(outer: Switches, own: Switches) -> Switches {
    Switches {
        readonly: outer.readonly || own.readonly,
        nonvolatile: outer.nonvolatile || own.nonvolatile,
        unmergeable: outer.unmergeable || own.unmergeable,
        ..own
    }
}

/// Gives a region every address where it can show and that nobody has occupied.
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
