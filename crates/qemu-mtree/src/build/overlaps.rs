// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds overlapping siblings of equal priority. The dump does not state which
//! of them QEMU shows, unless they start at the same address.

use super::facts::Facts;
use crate::machine::Overlap;
use crate::parse::line::cut;

/// Returns the siblings whose order is guessed, at most one pair for each
/// region that is shown.
pub(super) fn overlaps(facts: &Facts<'_>) -> Vec<Overlap> {
    let regions = 0..facts.dump.regions.len();
    let parents = regions.filter(|&index| facts.identity.is_canonical(index));
    parents.flat_map(|parent| below(facts, parent)).collect()
}

fn below(facts: &Facts<'_>, parent: usize) -> Vec<Overlap> {
    let regions = &facts.dump.regions;
    let mut children = regions[parent].children.clone();
    children.retain(|&child| is_shown(facts, child));
    children.sort_by_key(|&child| (regions[child].priority, regions[child].address));
    let end = |child: usize| u128::from(regions[child].address) + regions[child].size;
    let mut overlaps = Vec::new();
    // Among the siblings before, the one that reaches furthest.
    let mut before: Option<usize> = None;
    for child in children {
        let same = before.filter(|&before| regions[before].priority == regions[child].priority);
        if let Some(hidden) = same.filter(|&same| hides(facts, child, same, end(same))) {
            overlaps.push(Overlap {
                line: regions[child].line,
                shown: cut(&regions[child].name),
                hidden: cut(&regions[hidden].name),
                hidden_line: regions[hidden].line,
            });
        }
        if same.is_none_or(|same| end(same) < end(child)) {
            before = Some(child);
        }
    }
    overlaps
}

/// Whether a region hides addresses of its siblings. A container shows its
/// siblings where it has no child.
fn is_shown(facts: &Facts<'_>, index: usize) -> bool {
    let region = &facts.dump.regions[index];
    let is_container = region.alias.is_none() && !facts.answers[index];
    !region.disabled && !is_container && facts.size(index) > 0
}

/// Whether a region starts inside of a sibling, which ends at `end`.
fn hides(facts: &Facts<'_>, region: usize, sibling: usize, end: u128) -> bool {
    let [region, sibling] = [region, sibling].map(|index| facts.dump.regions[index].address);
    region > sibling && u128::from(region) < end
}
