// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares a flat view, address by address, with the region that should
//! answer.

use memory_model::{AddrRange, FlatView};

use super::ops::WINDOW;
use super::painted::{Answer, Painted};

/// Compares a view with the answer at each address: all addresses at both ends
/// of the space, and the edges of every run anywhere.
pub fn check_view(
    view: &FlatView<usize>,
    who: impl Fn(u64) -> Option<Answer>,
    painted: &Painted,
    unit: u64,
) {
    let edges = edges(view);
    let low = (0..2 * WINDOW).map(|n| n * unit);
    let windows = low.chain((0..=WINDOW).map(|n| u64::MAX - n * unit));
    for address in windows.chain(edges.iter().copied()) {
        let found = view.find(address);
        let answer = found.map(|run| {
            let node = *run.region().handle();
            assert_eq!(run.id(), painted.nodes[node].id);
            let attributes = run.attributes();
            Answer {
                node,
                offset: run.offset() + (address - run.range().start()),
                access: run.access(),
                readonly: attributes.readonly,
                nonvolatile: attributes.nonvolatile,
                unmergeable: attributes.unmergeable,
                logged: attributes.logged,
            }
        });
        assert_eq!(answer, who(address), "at {address:#x}");
        let linear = view.ranges().find(|r| r.range().contains(address));
        assert_eq!(found, linear, "find({address:#x})");
    }
    check_order(view);
    check_intersecting(view, &edges);
}

/// The first and last addresses of all runs, and their neighbours, sorted.
fn edges(view: &FlatView<usize>) -> Vec<u64> {
    let around = |a: u64| [a.saturating_sub(1), a, a.saturating_add(1)];
    let runs = view.ranges().map(|run| run.range());
    let edges = runs.flat_map(|r| [around(r.start()), around(r.last())]);
    let mut edges: Vec<u64> = edges.flatten().collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// Runs are sorted, do not overlap, and cannot be merged.
fn check_order(view: &FlatView<usize>) {
    assert_eq!(view.ranges().count(), view.len());
    for (a, b) in view.ranges().zip(view.ranges().skip(1)) {
        assert!(a.range().last() < b.range().start(), "{a:?} {b:?}");
        let adjacent = a.range().last() + 1 == b.range().start();
        let next_bytes = a
            .offset()
            .checked_add(b.range().start() - a.range().start());
        let one_run = adjacent
            && (a.id(), a.attributes()) == (b.id(), b.attributes())
            && next_bytes == Some(b.offset())
            && !a.attributes().unmergeable;
        assert!(!one_run, "{a:?} and {b:?} are one run");
    }
}

fn check_intersecting(view: &FlatView<usize>, edges: &[u64]) {
    for (i, &start) in edges.iter().enumerate() {
        for &last in edges[i..].iter().take(7).chain(edges.last()) {
            let range = AddrRange::from_bounds(start, last).unwrap();
            let meets = view
                .ranges()
                .filter(|r| r.range().intersect(range).is_some());
            assert!(view.intersecting(range).eq(meets.clone()), "{range}");
            let lowest = meets.clone().next().and_then(|run| run.clipped(range));
            assert_eq!(view.find_in(range), lowest, "{range}");
        }
    }
}
