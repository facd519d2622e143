// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Joins windows that have few regions between them.
//!
//! Rendering a window of its own takes longer than rendering a few more regions in
//! another window. The regions in between are counted first, as there can be any
//! number of them.

use guest_ranges::AddrRange;
use smallvec::SmallVec;

use crate::ids::RegionId;
use crate::region::Kind;
use crate::render::extents::Ranges;
use crate::tree::Tree;

/// How many unchanged regions may be rendered to save one window: that many take
/// about as long as the window.
const FOR_A_WINDOW: usize = 8;

/// Joins sorted windows of the space of `root` where rendering what lies between
/// them takes no longer than rendering them separately.
///
/// At most [`FOR_A_WINDOW`] additional regions are rendered for each of the given
/// windows.
pub(crate) fn coalesce_windows<H>(tree: &Tree<H>, root: RegionId, windows: &mut Ranges) {
    let [first, .., last] = windows[..] else {
        return;
    };
    // Most containers are full, or lie where nothing else does.
    let mut all = first;
    all.extend_to(last.last());
    if has_few(tree, root, all, FOR_A_WINDOW * windows.len()) {
        *windows = Ranges::from_iter([all]);
        return;
    }
    windows.dedup_by(|next, before| {
        let from = before.last().saturating_add(1);
        let to = next.start().saturating_sub(1);
        let between = AddrRange::from_bounds(from, to);
        let joins = between.is_none_or(|range| has_few(tree, root, range, FOR_A_WINDOW));
        if joins {
            before.extend_to(next.last());
        }
        joins
    });
}

/// Whether rendering `range` of the space of `root` visits at most `most` regions.
/// This function visits no more itself.
fn has_few<H>(tree: &Tree<H>, root: RegionId, range: AddrRange, most: usize) -> bool {
    let mut parts: SmallVec<[(RegionId, AddrRange); 16]> = SmallVec::new();
    let mut next = Some((root, range));
    let mut left = most;
    while let Some((id, offsets)) = next.take().or_else(|| parts.pop()) {
        let Ok(node) = tree.node(id) else { continue };
        let offsets = node.offsets.intersect(offsets);
        let Some(offsets) = offsets.filter(|_| node.switches.enabled) else {
            continue;
        };
        if let Kind::Alias { target, offset } = *node.region.kind() {
            let Some(less) = left.checked_sub(1) else {
                return false;
            };
            left = less;
            next = offsets.moved_up(offset).map(|offsets| (target, offsets));
            continue;
        }
        let few = node
            .children
            .few_reaching_into(offsets, &mut left, |child| {
                let shown = child.range.intersect(offsets);
                let shown = shown.and_then(|s| s.moved_down(child.range.start()));
                parts.extend(shown.map(|offsets| (child.id, offsets)));
            });
        if !few {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::render::tests::{Among, MANY, PAGE, page, pages};

    #[test]
    fn a_full_container_among_others_is_one_window() {
        let mut among = Among::others(MANY);
        let container = among.container(1 << 20, (0..16).map(|n| (2 * n + 1) * PAGE));
        let moved = among.windows(|t| t.move_to(container, 100 * PAGE).unwrap());
        let span = |at: u64| (at + PAGE, at + 32 * PAGE - 1);
        assert_eq!(moved, [span(0), span(100 * PAGE)]);
    }

    #[test]
    fn between_children_with_many_others_between_them_nothing_is_rendered() {
        let mut among = Among::others(MANY);
        let near = [1, 3, 5].map(|n| n * PAGE);
        let container = among.container(1 << 48, near.into_iter().chain([1001 * PAGE]));
        let switched = among.windows(|t| t.set_enabled(container, false).unwrap());
        assert_eq!(switched, [(PAGE, 6 * PAGE - 1), page(1001 * PAGE)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]
        #[test]
        fn coalescing_renders_no_more_extra_regions_than_its_limit(
            others in prop::collection::vec((0_u64..200, 1_u64..4), 0..150),
            own in prop::collection::btree_set(0_u64..200, 1..20),
        ) {
            let mut among = Among::others(0);
            let (mut t, root) = (among.model.transaction(), among.root);
            for &(at, count) in &others {
                pages(&mut t, root, at * PAGE, count);
            }
            t.commit().unwrap();
            let container = among.container(1 << 40, own.iter().map(|at| at * PAGE));
            let windows = among.windows(|t| t.unplace(container).unwrap());
            let meets = |a: (u64, u64), b: (u64, u64)| a.0 <= b.1 && b.0 <= a.1;
            for at in &own {
                let shown = windows.iter().filter(|w| w.0 <= at * PAGE && page(at * PAGE).1 <= w.1);
                prop_assert_eq!(shown.count(), 1);
            }
            let in_vain = others.iter().filter(|(at, count)| {
                let other = (at * PAGE, (at + count) * PAGE - 1);
                let needed = own.iter().any(|at| meets(page(at * PAGE), other));
                !needed && windows.iter().any(|window| meets(*window, other))
            });
            prop_assert!(in_vain.count() <= FOR_A_WINDOW * own.len());
        }
    }
}
