// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tree of runs against a sorted map.

use super::*;
use crate::view::{Attributes, FlatView};
use crate::{DirtyClients, GuestAccess, Region, RegionId};
use alloc::collections::BTreeMap;
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

/// All leaves on one level, every start right, no node too large, and none
/// but the root without entries.
fn check(node: &Node<()>, is_root: bool) -> usize {
    assert!(node.len() <= MAX && (is_root || node.len() > 0));
    match &node.entries {
        Entries::Runs(runs) => {
            assert!(
                runs.iter()
                    .map(|r| r.range().start())
                    .eq(node.starts.as_slice().iter().copied())
            );
            1
        }
        Entries::Nodes(nodes) => {
            assert!(
                nodes
                    .iter()
                    .map(|n| n.starts.starts[0])
                    .eq(node.starts.as_slice().iter().copied())
            );
            let heights: Vec<usize> = nodes.iter().map(|n| check(n, false)).collect();
            assert!(heights.windows(2).all(|pair| pair[0] == pair[1]));
            heights[0] + 1
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn replacing_runs_agrees_with_a_sorted_map(
        steps in prop::collection::vec((0_u64..2000, 0_u64..300, 1_usize..40, any::<bool>()), 1..60),
        probes in prop::collection::vec(0_u64..2200, 1..60),
    ) {
        let mut runs = Runs::new();
        let mut map = BTreeMap::new();
        for (start, len, stride, fill) in steps {
            let range = AddrRange::new(start, u128::from(len) + 1).unwrap();
            let new: Vec<_> = (start..=range.last())
                .step_by(stride)
                .filter(|_| fill)
                .map(|at| run(at, 1))
                .collect();
            map.retain(|at, _| !range.contains(*at));
            map.extend(new.iter().map(|r| (r.range().start(), r.clone())));
            let before = runs.clone();
            let listed: Vec<_> = before.from(0).cloned().collect();
            runs = runs.replaced(range, new);
            prop_assert!(before.from(0).eq(listed.iter()), "the old tree changed");
            check(&runs.root, true);
            prop_assert_eq!(runs.len(), map.len());
            prop_assert!(runs.from(0).eq(map.values()));
        }
        for at in probes {
            prop_assert_eq!(runs.at_or_below(at), map.range(..=at).next_back().map(|e| e.1));
            prop_assert!(runs.from(at).eq(map.range(at..).map(|e| e.1)));
        }
    }
}

#[test]
fn a_hundred_thousand_runs_lie_in_few_levels() {
    let many: Vec<_> = (0..100_000).map(|n| run(n * 16, 16)).collect();
    let runs = Runs::new().replaced(AddrRange::ALL, many);
    assert_eq!(check(&runs.root, true), 3);
    let view = FlatView::of(runs);
    assert_eq!(
        view.find(16 * 77_777 + 3).unwrap().range().start(),
        16 * 77_777
    );
}
