// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bound on the work of rendering: aliases of aliases multiply.

use super::facts::Facts;
use super::plan::{Part, What};

/// How many regions may be looked at through all aliases, over all views; real
/// machines have some thousands, and ten PCI bridges one behind the other some
/// hundred thousands.
pub(super) const MAX_SEEN: u64 = 1 << 19;

/// How many bytes of a name count as much as a region: a flat view has the name
/// once for each range.
const NAME: usize = 64;

/// The first of `roots` with which too many regions are seen.
pub(super) fn too_much(
    facts: &Facts<'_>,
    parts: &[Part],
    mut roots: impl Iterator<Item = usize>,
) -> Option<usize> {
    let mut left = MAX_SEEN;
    roots.find(|&root| !look(facts, parts, root, &mut left))
}

/// Looks at all that is seen from `root`, each as often as it is; `false` if
/// nothing is left for the rest. No part contains itself: the plan saw to that.
fn look(facts: &Facts<'_>, parts: &[Part], root: usize, left: &mut u64) -> bool {
    // Each with what is seen of it: from here, and up to but not with there.
    let mut todo = vec![(root, 0, u128::MAX)];
    while let Some((part, first, end)) = todo.pop() {
        let drawn = parts[part].drawn;
        let end = end.min(facts.size(drawn));
        let name = facts.dump.regions[drawn].name.len() / NAME;
        let looks = 1 + (parts[part].children.len() + name) as u64;
        *left = left.saturating_sub(looks);
        if *left == 0 {
            return false;
        }
        if facts.dump.regions[drawn].disabled || first >= end {
            continue;
        }
        match parts[part].what {
            What::Window { target, offset } => {
                let offset = u128::from(offset);
                todo.push((target, first + offset, end + offset));
            }
            What::Whole { target } => todo.push((target, first, end)),
            What::Plain | What::Nothing => {}
        }
        for &(child, address) in &parts[part].children {
            let address = u128::from(address);
            if end > address {
                todo.push((child, first.saturating_sub(address), end - address));
            }
        }
    }
    true
}
