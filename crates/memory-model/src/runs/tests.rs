// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tree of runs against a sorted map.

use super::node::MAX;
use super::*;
use crate::view::{Attributes, FlatView};
use crate::{DirtyClients, GuestAccess, Region, RegionId};
use alloc::collections::BTreeMap;
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
fn check(node: &Node<()>, is_root: bool) -> usize {
    assert!(is_root || node.len() > 0);
    match &node.entries {
        Entries::Runs(blocks) => {
            check_blocks(node, blocks, |run| run.range().start());
            1
        }
        Entries::Nodes(blocks) => {
            check_blocks(node, blocks, |node| node.start());
            let nodes = blocks.iter().flatten().flat_map(|block| block.iter());
            let heights: Vec<usize> = nodes.map(|node| check(node, false)).collect();
            assert!(heights.windows(2).all(|pair| pair[0] == pair[1]));
            heights[0] + 1
        }
    }
}

fn check_blocks<E>(node: &Node<()>, blocks: &Blocks<E>, start: fn(&E) -> u64) {
    for (n, block) in blocks.iter().enumerate() {
        let expected = block.iter().flat_map(|block| block.iter().map(start));
        let mut expected: Vec<u64> = expected.collect();
        assert!(n >= node.len() || (1..=MAX).contains(&expected.len()));
        assert!(n < node.len() || expected.is_empty(), "a gap");
        expected.resize(MAX, u64::MAX);
        assert_eq!(node.index.heads()[n], expected[0]);
        assert_eq!(node.index.starts()[n][..], expected);
    }
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
            let before = runs.clone();
            let listed: Vec<_> = before.from(0).cloned().collect();
            runs = runs.edited(&[Edit { range, runs: new.into() }]);
            prop_assert!(before.from(0).eq(listed.iter()), "the old tree changed");
            check(&runs.root, true);
            prop_assert_eq!(runs.len(), map.len());
            prop_assert!(runs.from(0).eq(map.values()));
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
    let runs = Runs::new().edited(&[Edit {
        range: AddrRange::ALL,
        runs: many.into(),
    }]);
    assert_eq!(check(&runs.root, true), 3);
    let view = FlatView::of(runs);
    assert_eq!(
        view.find(16 * 77_777 + 3).unwrap().range().start(),
        16 * 77_777
    );
}
