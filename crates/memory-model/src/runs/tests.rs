// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tree of runs against a sorted map.

use super::edit::Part;
use super::node::{Entry, MAX};
use super::*;
use crate::view::{Attributes, FlatView};
use crate::{DirtyClients, GuestAccess, Region, RegionId};
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

/// All leaves on one level, every start right, and nothing empty but the tree.
fn check(root: &Root<()>) -> usize {
    match root {
        Root::Leaf(leaf) => check_row(leaf, true),
        Root::Inner(inner) => {
            assert!(inner.len() > 1);
            check_inner(inner)
        }
    }
}

fn check_inner(inner: &Inner<()>) -> usize {
    let heights: Vec<usize> = match inner {
        Inner::Leaves(row) => {
            check_row(row, false);
            row.iter().map(|leaf| check_row(leaf, false)).collect()
        }
        Inner::Inners(row) => {
            check_row(row, false);
            row.iter().map(|inner| check_inner(inner)).collect()
        }
    };
    assert!(heights.windows(2).all(|pair| pair[0] == pair[1]));
    heights[0] + 1
}

fn check_row<E: Entry>(row: &Row<E>, may_be_empty: bool) -> usize {
    assert!(may_be_empty || row.len() > 0);
    assert_eq!(row.iter().count(), row.len());
    let mut expected: Vec<u64> = row.iter().map(Entry::start).collect();
    assert!(expected.is_sorted());
    expected.resize(MAX, u64::MAX);
    let starts: Vec<u64> = (0..MAX).map(|at| row.start_of(at)).collect();
    assert_eq!(starts, expected);
    1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 32 }))]
    #[test]
    fn replacing_runs_agrees_with_a_sorted_map(
        steps in prop::collection::vec((0_u64..=2000, 0_u64..=300, 1_usize..40, any::<bool>()), 1..60),
        probes in prop::collection::vec(0_u64..2300, 1..60),
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
            runs.edit(&[Edit { range, runs: new.into() }], &mut pool);
            prop_assert!(before.ranges().eq(listed.iter()), "the old tree changed");
            runs = pool.copy(&FlatView::of(runs)).runs().clone();
            pool.tidy_up();
            pool.take_in(before);
            check(&runs.root);
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
    let many: Vec<_> = (0..100_000).map(|n| run(n * 16, 16)).collect();
    let mut runs = Runs::new();
    let edit = Edit {
        range: AddrRange::ALL,
        runs: many.into(),
    };
    runs.edit(&[edit], &mut Pool::default());
    assert_eq!(check(&runs.root), 6);
    let view = FlatView::of(runs);
    assert_eq!(
        view.find(16 * 77_777 + 3).unwrap().range().start(),
        16 * 77_777
    );
}
