// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The extents of a region: the offsets at which something in it answers.
//!
//! A container does not answer itself. A change of a container affects only the
//! extents, whatever its size and whatever else lies within its addresses.

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::ids::RegionId;
use crate::region::Kind;
use crate::tree::Tree;

/// Sorted ranges that do not touch.
pub(crate) type Ranges = SmallVec<[AddrRange; 4]>;

/// The extents of a region.
#[derive(Debug)]
pub(crate) struct Extents {
    region: RegionId,
    /// The part of the region whose extents are known.
    part: Option<AddrRange>,
    known: Ranges,
}

/// A part of a region that is still to be visited.
struct Part {
    id: RegionId,
    offsets: AddrRange,
    /// The difference between offsets in the outermost region and these offsets, modulo
    /// 2^64: the target of an alias can start before it.
    base: u64,
}

type Parts = SmallVec<[Part; 8]>;

impl Extents {
    /// The extents of a region that is enabled and does not answer itself. One that
    /// does is its own only extent.
    pub(crate) fn of(region: RegionId) -> Self {
        Self {
            region,
            part: None,
            known: Ranges::new(),
        }
    }

    /// The extents in a part of the region: sorted offsets, not adjacent. `None` if
    /// finding them takes more than `left` visits.
    pub(crate) fn within<H>(
        &mut self,
        tree: &Tree<H>,
        part: AddrRange,
        left: &mut u64,
    ) -> Option<&[AddrRange]> {
        // A region that moves has the same extents in both places.
        if self.part != Some(part) {
            self.known = find(tree, self.region, part, left)?;
            self.part = Some(part);
        }
        Some(&self.known)
    }
}

/// Finds the extents in `part` of a region.
fn find<H>(tree: &Tree<H>, id: RegionId, part: AddrRange, left: &mut u64) -> Option<Ranges> {
    let mut found = Ranges::new();
    let mut parts = Parts::new();
    let mut next = Some(Part {
        id,
        offsets: part,
        base: 0,
    });
    while let Some(part_of) = next.take().or_else(|| parts.pop()) {
        *left = left.checked_sub(1)?;
        let Ok(node) = tree.node(part_of.id) else {
            continue;
        };
        let offsets = node.offsets.intersect(part_of.offsets);
        let Some(offsets) = offsets.filter(|_| node.switches.enabled) else {
            continue;
        };
        let base = part_of.base;
        match *node.region.kind() {
            Kind::Alias { target, offset } => {
                next = offsets.moved_up(offset).map(|offsets| Part {
                    id: target,
                    offsets,
                    base: base.wrapping_sub(offset),
                });
            }
            Kind::Container => node.children.for_each_reaching_into(offsets, |child| {
                let at = child.range.start();
                let shown = child.range.intersect(offsets);
                parts.extend(shown.and_then(|s| s.moved_down(at)).map(|offsets| Part {
                    id: child.id,
                    offsets,
                    base: base.wrapping_add(at),
                }));
            }),
            _ => found.extend(offsets.wrapped_up(base)),
        }
    }
    found.sort_unstable();
    found.dedup_by(|next, before| join(before, *next));
    Some(found)
}

/// Joins a range with the next one, which does not start before it, if they overlap or
/// touch. Returns whether they do.
#[inline]
pub(crate) fn join(before: &mut AddrRange, next: AddrRange) -> bool {
    let joins = next.start() <= before.last().saturating_add(1);
    if joins {
        before.extend_to(next.last());
    }
    joins
}
