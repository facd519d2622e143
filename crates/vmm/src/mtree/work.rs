// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bound on the work of rendering: aliases of aliases multiply.

use super::plan::{Part, What};

/// How many regions may be seen through all aliases, over all views; real
/// machines have some thousands.
pub(super) const MAX_SEEN: u64 = 1 << 21;

/// The first of `roots` with which too many regions are seen.
pub(super) fn too_much(parts: &[Part], roots: impl Iterator<Item = usize>) -> Option<usize> {
    let mut counts = vec![None; parts.len()];
    let mut total = 0_u64;
    for root in roots {
        total = total.saturating_add(seen_from(parts, &mut counts, root));
        if total > MAX_SEEN {
            return Some(root);
        }
    }
    None
}

/// How many parts are seen from `root`, each as often as it is. No part
/// contains itself: the plan saw to that.
fn seen_from(parts: &[Part], counts: &mut [Option<u64>], root: usize) -> u64 {
    let next = |part: usize| {
        let target = match parts[part].what {
            What::Window { target, .. } | What::Whole { target } => Some(target),
            What::Plain | What::Nothing => None,
        };
        let children = parts[part].children.iter().map(|&(child, _)| child);
        children.chain(target)
    };
    let mut stack = vec![(root, false)];
    while let Some((part, below_done)) = stack.pop() {
        if counts[part].is_some() {
            continue;
        }
        if below_done {
            let below = next(part).filter_map(|below| counts[below]);
            counts[part] = Some(below.fold(1, u64::saturating_add));
        } else {
            stack.push((part, true));
            stack.extend(next(part).map(|below| (below, false)));
        }
    }
    counts[root].unwrap_or(u64::MAX)
}
