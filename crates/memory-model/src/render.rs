// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the region tree to the flat view: a pure function.
//!
//! Depth first, the winner among siblings first; each region that answers
//! accesses then fills only what its betters left open. So children cover
//! their parent, higher priorities cover lower ones, and whatever lies outside
//! its parent is cut off.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::tree::{Node, Tree};
use crate::view::{Attributes, FlatRange};
use crate::{AddrRange, DirtyClients, GuestAccess, Kind, RegionId, Switches};

/// How many regions one rendering visits before it gives up. Only aliases of
/// aliases, each showing the next one twice, come near it.
pub(crate) const MAX_VISITS: u64 = 1 << 22;

/// Rendering took more than [`MAX_VISITS`] steps.
#[derive(Debug)]
pub(crate) struct TooComplex;

enum Step {
    /// Look at a region whose parent starts at `base`, seen through `clip`.
    Visit {
        id: RegionId,
        base: i128,
        clip: AddrRange,
        inherited: Switches,
    },
    /// All children of the region are rendered: it takes what is left.
    Fill {
        id: RegionId,
        base: i128,
        clip: AddrRange,
        effective: Switches,
    },
}

/// What of the tree below `root`, which lies at address 0, shows in `window`.
/// Neighbours are not joined yet.
pub(crate) fn render<H>(
    tree: &Tree<H>,
    root: RegionId,
    window: AddrRange,
) -> Result<impl Iterator<Item = FlatRange<H>> + use<H>, TooComplex> {
    let mut taken = BTreeMap::new();
    let mut visits = 0;
    // Enough for a window of a usual machine.
    let mut stack = Vec::with_capacity(16);
    stack.push(Step::Visit {
        id: root,
        base: -place_of(tree, root),
        clip: window,
        inherited: Switches::default(),
    });
    while let Some(step) = stack.pop() {
        match step {
            Step::Visit {
                id,
                base,
                clip,
                inherited,
            } => {
                visits += 1;
                if visits > MAX_VISITS {
                    return Err(TooComplex);
                }
                visit(tree, id, base, clip, inherited, &mut stack);
            }
            Step::Fill {
                id,
                base,
                clip,
                effective,
            } => {
                if let Ok(node) = tree.node(id) {
                    let logging = tree.global_logging();
                    fill(&mut taken, node, id, base, clip, effective, logging);
                }
            }
        }
    }
    Ok(taken.into_values())
}

/// Where a region lies in its parent; 0 if it lies nowhere.
fn place_of<H>(tree: &Tree<H>, id: RegionId) -> i128 {
    let place = tree.node(id).ok().and_then(|n| n.place);
    place.map_or(0, |p| p.address.into())
}

/// Plans what to do for a region: first what lies in it, then itself.
fn visit<H>(
    tree: &Tree<H>,
    id: RegionId,
    parent_base: i128,
    clip: AddrRange,
    inherited: Switches,
    stack: &mut Vec<Step>,
) {
    let Ok(node) = tree.node(id) else { return };
    if !node.switches.enabled {
        return;
    }
    let base = parent_base + place_of(tree, id);
    let own = AddrRange::clamp(base, node.region.size());
    let Some(clip) = own.and_then(|own| own.intersect(clip)) else {
        return;
    };
    let effective = inherit(inherited, node.switches);

    if let Kind::Alias { target, offset } = *node.region.kind() {
        // The target is shown as if it started `offset` bytes before the
        // alias, wherever it lies itself.
        let base = base - i128::from(offset) - place_of(tree, target);
        stack.push(Step::Visit {
            id: target,
            base,
            clip,
            inherited: effective,
        });
        return;
    }

    if node.region.kind().terminates() {
        stack.push(Step::Fill {
            id,
            base,
            clip,
            effective,
        });
    }
    // Only those children are looked at that reach into what is asked for.
    let Some(seen) = AddrRange::clamp(i128::from(clip.start()) - base, clip.size()) else {
        return;
    };
    let children = node.children.reaching_into(seen).into_iter().rev();
    stack.extend(children.map(|child| Step::Visit {
        id: child.id,
        base,
        clip,
        inherited: effective,
    }));
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

/// Gives a region every address of `clip` that nobody has taken yet.
fn fill<H>(
    taken: &mut BTreeMap<u64, FlatRange<H>>,
    node: &Node<H>,
    id: RegionId,
    base: i128,
    clip: AddrRange,
    effective: Switches,
    logging: DirtyClients,
) {
    let Some(access) = GuestAccess::of(node.region.kind(), effective) else {
        return;
    };
    let attributes = Attributes::of(access, effective, node.logged(logging));
    for range in gaps(taken, clip) {
        // `clip` lies inside the region, so this is below its size.
        let Ok(offset) = u64::try_from(i128::from(range.start()) - base) else {
            continue;
        };
        let piece = FlatRange {
            range,
            id,
            region: node.region.clone(),
            offset,
            attributes,
        };
        taken.insert(range.start(), piece);
    }
}

/// The addresses of `clip` that no taken run covers.
fn gaps<H>(taken: &BTreeMap<u64, FlatRange<H>>, clip: AddrRange) -> Vec<AddrRange> {
    if taken.is_empty() {
        return vec![clip];
    }
    let mut gaps = Vec::new();
    let before = taken.range(..clip.start()).next_back();
    let mut from = match before {
        Some((_, run)) if run.range.contains(clip.start()) => run.range.last().checked_add(1),
        _ => Some(clip.start()),
    };
    for (&start, run) in taken.range(clip.start()..=clip.last()) {
        let Some(at) = from else { break };
        if let Some(gap) = start
            .checked_sub(1)
            .and_then(|l| AddrRange::from_bounds(at, l))
        {
            gaps.push(gap);
        }
        from = run.range.last().checked_add(1);
    }
    gaps.extend(from.and_then(|at| AddrRange::from_bounds(at, clip.last())));
    gaps
}
