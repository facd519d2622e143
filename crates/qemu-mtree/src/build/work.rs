// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bounds the work of rendering, because aliases of aliases multiply.

use super::facts::Facts;
use super::plan::{PlannedKind, PlannedRegion};

/// The most visits of regions, through all aliases and over all views. Real
/// machines need some thousands. A chain of ten PCI bridges needs some hundred
/// thousands.
pub(super) const MAX_VISITS: u64 = 1 << 19;

/// The length of a name that costs as much as one region, because a flat view
/// repeats the name for each range.
const NAME: usize = 64;

/// Returns the first of `roots` that exceeds the limit.
pub(super) fn first_over_limit(
    facts: &Facts<'_>,
    planned: &[PlannedRegion],
    mut roots: impl Iterator<Item = usize>,
) -> Option<usize> {
    let mut left = MAX_VISITS;
    roots.find(|&root| !visit(facts, planned, root, &mut left))
}

/// Visits everything that is visible from `root`, as often as it is visible.
/// Returns `false` once the budget is used up. The walk ends, because the plan
/// breaks cycles.
fn visit(facts: &Facts<'_>, planned: &[PlannedRegion], root: usize, left: &mut u64) -> bool {
    // Each region with its visible bytes: from the first to the end, exclusive.
    let mut todo = vec![(root, 0, u128::MAX)];
    while let Some((part, first, end)) = todo.pop() {
        let drawn = planned[part].drawn;
        let end = end.min(facts.size(drawn));
        let name = facts.dump.regions[drawn].name.len() / NAME;
        let visits = 1 + (planned[part].children.len() + name) as u64;
        *left = left.saturating_sub(visits);
        if *left == 0 {
            return false;
        }
        if facts.dump.regions[drawn].disabled || first >= end {
            continue;
        }
        match planned[part].kind {
            PlannedKind::Alias { target, offset } => {
                let offset = u128::from(offset);
                todo.push((target, first + offset, end + offset));
            }
            PlannedKind::WholeAlias { target } => todo.push((target, first, end)),
            PlannedKind::Region | PlannedKind::Skipped => {}
        }
        for &(child, address) in &planned[part].children {
            let address = u128::from(address);
            if end > address {
                todo.push((child, first.saturating_sub(address), end - address));
            }
        }
    }
    true
}
