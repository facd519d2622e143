// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the region tree to the flat view: a pure function.
//!
//! Depth first, the winner among siblings first; each region that answers
//! accesses then fills only what its betters left open. So children cover
//! their parent, higher priorities cover lower ones, and whatever lies outside
//! its parent is cut off.

use smallvec::SmallVec;

use crate::node::Node;
use crate::taken::Taken;
use crate::tree::Tree;
use crate::view::{Attributes, FlatRange};
use crate::{AddrRange, DirtyClients, GuestAccess, Kind, RegionId, Switches};

/// How many regions one rendering visits before it gives up. Only aliases of
/// aliases, each showing the next one twice, come near it.
pub(crate) const MAX_VISITS: u64 = 1 << 22;

/// Rendering took more than [`MAX_VISITS`] steps.
#[derive(Debug)]
pub(crate) struct TooComplex;

/// `seen` are the offsets in the region that can show, and `base` is what has
/// to be added to them for addresses: modulo 2^64, since an alias can have its
/// target begin below the first address.
enum Step {
    /// Look at a region.
    Visit {
        id: RegionId,
        base: u64,
        seen: AddrRange,
        inherited: Switches,
    },
    /// All children of the region are rendered: it takes what is left.
    Fill {
        id: RegionId,
        base: u64,
        seen: AddrRange,
        effective: Switches,
    },
}

/// What is still to be done, the next at the end: enough for a window of a
/// usual machine.
type Steps = SmallVec<[Step; 8]>;

/// Tells what of the tree below `root`, which lies at address 0, shows in
/// `window`, by address. Neighbours are not joined yet.
pub(crate) fn render<H>(
    tree: &Tree<H>,
    root: RegionId,
    window: AddrRange,
    tell: impl FnMut(FlatRange<H>),
) -> Result<(), TooComplex> {
    let mut taken = Taken::new();
    let mut visits = 0;
    let mut stack = Steps::new();
    stack.push(Step::Visit {
        id: root,
        base: 0,
        seen: window,
        inherited: Switches::default(),
    });
    while let Some(step) = stack.pop() {
        match step {
            Step::Visit {
                id,
                base,
                seen,
                inherited,
            } => {
                visits += 1;
                if visits > MAX_VISITS {
                    return Err(TooComplex);
                }
                visit(tree, id, base, seen, inherited, &mut stack);
            }
            Step::Fill {
                id,
                base,
                seen,
                effective,
            } => {
                if let Ok(node) = tree.node(id) {
                    let logging = tree.global_logging();
                    fill(&mut taken, node, id, base, seen, effective, logging);
                }
            }
        }
    }
    taken.for_each(tell);
    Ok(())
}

/// Plans what to do for a region: first what lies in it, then itself.
fn visit<H>(
    tree: &Tree<H>,
    id: RegionId,
    base: u64,
    seen: AddrRange,
    inherited: Switches,
    stack: &mut Steps,
) {
    let Ok(node) = tree.node(id) else { return };
    if !node.switches.enabled {
        return;
    }
    let own = node.region.offsets();
    let Some(seen) = own.and_then(|own| own.intersect(seen)) else {
        return;
    };
    let effective = inherit(inherited, node.switches);

    if let Kind::Alias { target, offset } = *node.region.kind() {
        // The target is shown as if it started `offset` bytes before the
        // alias, wherever it lies itself.
        if let Some(seen) = seen.moved_up(offset) {
            stack.push(Step::Visit {
                id: target,
                base: base.wrapping_sub(offset),
                seen,
                inherited: effective,
            });
        }
        return;
    }

    if node.region.kind().terminates() {
        stack.push(Step::Fill {
            id,
            base,
            seen,
            effective,
        });
    }
    // Only those children are looked at that reach into what is asked for.
    for child in node.children.reaching_into(seen).iter().rev() {
        let at = child.range.start();
        let seen = child.range.intersect(seen);
        if let Some(seen) = seen.and_then(|seen| seen.moved_down(at)) {
            stack.push(Step::Visit {
                id: child.id,
                base: base.wrapping_add(at),
                seen,
                inherited: effective,
            });
        }
    }
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

/// Gives a region every address where it can show and that nobody has taken.
fn fill<H>(
    taken: &mut Taken<H>,
    node: &Node<H>,
    id: RegionId,
    base: u64,
    seen: AddrRange,
    effective: Switches,
    logging: DirtyClients,
) {
    let Some(access) = GuestAccess::of(node.region.kind(), effective) else {
        return;
    };
    let attributes = Attributes::of(access, effective, node.logged(logging));
    let (start, last) = (
        seen.start().wrapping_add(base),
        seen.last().wrapping_add(base),
    );
    let Some(clip) = AddrRange::from_bounds(start, last) else {
        return;
    };
    for range in taken.gaps(clip) {
        taken.insert(FlatRange {
            range,
            id,
            region: node.region.clone(),
            offset: range.start().wrapping_sub(base),
            attributes,
        });
    }
}
