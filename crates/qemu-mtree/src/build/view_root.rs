// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which address spaces share a flat view.
//!
//! QEMU renders no view twice: an address space that shows nothing but the
//! whole of another region, by one alias or one child, uses that region's.

use super::facts::Facts;

/// The region that a view of `root` is rendered from; `None` if nothing can
/// show, in which case all such address spaces share the empty view.
pub(super) fn view_root(facts: &Facts<'_>, root: usize) -> Option<usize> {
    let regions = &facts.dump.regions;
    let mut at = root;
    // Each step goes down, or through an alias; neither can go in a circle,
    // but that is not known here.
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
