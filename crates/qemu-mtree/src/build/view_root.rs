// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds the address spaces that share a flat view.
//!
//! QEMU renders each view once. An address space uses another region's view if
//! it shows all of that region, through one alias or one child, and nothing
//! else.

use super::facts::Facts;

/// Returns the region that a view of `root` is rendered from. `None` means that
/// nothing is visible; all such address spaces share the empty view.
pub(super) fn view_root(facts: &Facts<'_>, root: usize) -> Option<usize> {
    let regions = &facts.dump.regions;
    let mut at = root;
    // Each step descends to a child or follows an alias. The loop bound guards
    // against cycles, which are not yet ruled out here.
    for _ in 0..=regions.len() {
        let region = &regions[at];
        if region.disabled {
            return None;
        }
        let fits = |other: usize| facts.size(at) >= facts.size(other);
        let next = if let (Some(alias), Some(target)) = (&region.alias, facts.targets[at]) {
            (alias.offset == 0 && fits(target)).then_some(target)
        } else if facts.answers[at] {
            None
        } else {
            let mut enabled = region.children.iter().filter(|&&c| !regions[c].disabled);
            match (enabled.next(), enabled.next()) {
                (None, _) => return None,
                (Some(&only), None) => (regions[only].address == 0 && fits(only)).then_some(only),
                (Some(_), Some(_)) => None,
            }
        };
        match next {
            Some(next) => at = next,
            None => return Some(at),
        }
    }
    None
}
