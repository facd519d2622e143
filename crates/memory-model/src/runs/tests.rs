// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tree of runs against a sorted map, and `check` against damaged trees.

use super::*;
use crate::ids::RegionId;
use crate::logging::DirtyClients;
use crate::region::{GuestAccess, Region};
use crate::runs::spare::SpareNodes;
use crate::view::FlatView;
use crate::view::flat_range::Attributes;
use crate::view::pool::Pool;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use proptest::prelude::*;

fn run(start: u64, size: u128) -> FlatRange<()> {
    FlatRange {
        range: AddrRange::new(start, size).unwrap(),
        id: RegionId {
            index: 0,
            generation: 0,
        },
        region: Arc::new(Region::mmio("mmio", 1)),
        offset: start,
        attributes: Attributes {
            access: GuestAccess::Trap,
            readonly: false,
            nonvolatile: false,
            unmergeable: true,
            logged: DirtyClients::NONE,
        },
    }
}

/// Fewer steps of fewer runs where each takes long, but more runs than two
/// levels have room for.
const STEPS: usize = if cfg!(miri) { 8 } else { 60 };
const LEN: u64 = if cfg!(miri) { 100 } else { 300 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 32 }))]
    #[test]
    fn replacing_runs_agrees_with_a_sorted_map(
        steps in prop::collection::vec((0_u64..=2000, 0..=LEN, 1_usize..40, any::<bool>()), 1..STEPS),
        probes in prop::collection::vec(0_u64..2300, 1..STEPS),
        base in prop_oneof![Just(0), Just(u64::MAX - 2300)],
    ) {
        let mut runs = Runs::new();
        let mut pool = Pool::default();
        let mut map = BTreeMap::new();
        for (start, len, stride, fill) in steps {
            let range = AddrRange::new(base + start, u128::from(len) + 1).unwrap();
            let new: Vec<_> = (range.start()..=range.last())
                .step_by(stride)
                .filter(|_| fill)
                .map(|at| run(at, 1))
                .collect();
            map.retain(|at, _| !range.contains(*at));
            map.extend(new.iter().map(|r| (r.range().start(), r.clone())));
            let before = Arc::new(FlatView::of(runs.clone()));
            let listed: Vec<_> = before.ranges().cloned().collect();
            runs.edit(&[Edit { range, runs: new.into() }], &mut pool.nodes);
            prop_assert!(before.ranges().eq(listed.iter()), "the old tree changed");
            runs = pool.copy(&FlatView::of(runs)).runs().clone();
            pool.nodes.tidy_up();
            pool.take_in(before);
            prop_assert!(runs.check().is_ok(), "{:?}", runs.check());
            prop_assert_eq!(runs.len(), map.len());
            prop_assert!(runs.from(0).eq(map.values()));
            let mut met = Vec::new();
            runs.meeting(range, &mut |run| met.push(run.range().start()));
            prop_assert!(met.iter().eq(map.range(range.start()..=range.last()).map(|e| e.0)));
        }
        for at in probes.into_iter().map(|at| base + at).chain([u64::MAX]) {
            let nearest = map.range(..=at).next_back().or_else(|| map.iter().next());
            prop_assert_eq!(runs.near(at), nearest.map(|e| e.1));
            prop_assert!(runs.from(at).eq(map.range(at..).map(|e| e.1)));
        }
    }
}

#[test]
fn a_hundred_thousand_runs_lie_in_few_levels() {
    // Under Miri, a hundredth.
    let (count, levels) = if cfg!(miri) { (1000, 4) } else { (100_000, 6) };
    let runs = tree(count);
    assert_eq!(runs.check(), Ok(levels));
    let (view, start) = (FlatView::of(runs), 16 * (count / 9 * 7));
    assert_eq!(view.find(start + 3).unwrap().range().start(), start);
}

/// This many runs of 16 bytes, side by side.
fn tree(count: u64) -> Runs<()> {
    let mut runs = Runs::new();
    let edit = Edit {
        range: AddrRange::ALL,
        runs: (0..count).map(|n| run(n * 16, 16)).collect(),
    };
    runs.edit(&[edit], &mut SpareNodes::default());
    assert!(runs.check().is_ok());
    runs
}

/// The leaves of a tree with two levels.
fn leaves(runs: &mut Runs<()>) -> &mut Row<Shared<Leaf<()>>> {
    match &mut runs.root {
        Root::Inner(Inner::Leaves(row)) => row,
        other => panic!("{other:?}"),
    }
}

/// A leaf, to change it.
fn leaf(runs: &mut Runs<()>, at: usize) -> &mut Leaf<()> {
    leaves(runs).get_mut(at).unwrap().make_mut()
}

#[track_caller]
fn wrong(runs: &Runs<()>, says: &str) {
    let broken = runs.check().unwrap_err();
    assert!(broken.what.contains(says), "{broken:?}");
}

#[test]
fn a_tree_of_another_length_than_it_says_is_found() {
    for count in [3, 30] {
        let mut runs = tree(count);
        runs.len += 1;
        wrong(&runs, "not as many runs");
    }
    let mut runs = tree(0);
    runs.len = 1;
    wrong(&runs, "empty");
}

#[test]
fn a_start_in_a_node_that_no_entry_has_is_found() {
    let mut runs = tree(30);
    leaves(&mut runs).set_start(1, 1);
    wrong(&runs, "another start");
    let mut runs = tree(30);
    leaf(&mut runs, 1).set_start(1, 1);
    wrong(&runs, "another start");
    // Behind the last entry, too.
    let mut runs = tree(3);
    let Root::Leaf(leaf) = &mut runs.root else {
        panic!("{runs:?}");
    };
    leaf.set_start(3, 1);
    wrong(&runs, "another start");
}

#[test]
fn runs_in_another_order_are_found() {
    let mut runs = tree(30);
    let (first, second) = (run(0, 16), run(16, 16));
    leaf(&mut runs, 0).replace(0, second);
    leaf(&mut runs, 0).replace(1, first);
    wrong(&runs, "has not ended");
    // From one leaf to the next: all that is in it starts there and behind.
    let mut runs = tree(30);
    let last = leaf(&mut runs, 0).len() - 1;
    let longer = run(last as u64 * 16, 17);
    leaf(&mut runs, 0).replace(last, longer);
    wrong(&runs, "has not ended");
}

#[test]
fn a_leaf_without_runs_is_found() {
    let mut runs = tree(30);
    let last = leaves(&mut runs).len() - 1;
    *leaf(&mut runs, last) = Leaf::new();
    leaves(&mut runs).set_start(last, u64::MAX);
    wrong(&runs, "an empty leaf");
}

#[test]
fn a_root_above_one_node_is_found() {
    let mut runs = tree(30);
    while leaves(&mut runs).len() > 1 {
        leaves(&mut runs).remove(1);
    }
    wrong(&runs, "one node below");
}

#[test]
fn leaves_on_several_levels_are_found() {
    let mut runs = tree(100);
    let Root::Inner(Inner::Inners(row)) = &mut runs.root else {
        panic!("{runs:?}");
    };
    let first = row.get_mut(0).unwrap().make_mut();
    let above = Row::of([Shared::new(first.clone())].into_iter());
    *first = Inner::Inners(above);
    wrong(&runs, "several levels");
}
