// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds cycles of regions: strongly connected components.

/// Returns a component number for each of `count` nodes. Two nodes have the
/// same number if each reaches the other. `next` returns the successors of a
/// node.
pub(super) fn components(count: usize, next: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let forward: Vec<Vec<usize>> = (0..count).map(next).collect();
    let mut backward = vec![Vec::new(); count];
    for (node, to) in forward.iter().enumerate() {
        for &to in to {
            backward[to].push(node);
        }
    }
    // Kosaraju's algorithm: the backward search starts from the nodes that the
    // forward search finishes last, so it cannot leave a component.
    let mut order = Vec::with_capacity(count);
    let mut seen = vec![false; count];
    for node in 0..count {
        let mut stack = vec![(node, false)];
        while let Some((node, left)) = stack.pop() {
            if left {
                order.push(node);
            } else if !std::mem::replace(&mut seen[node], true) {
                stack.push((node, true));
                stack.extend(forward[node].iter().map(|&to| (to, false)));
            }
        }
    }
    let mut component = vec![None; count];
    for &first in order.iter().rev() {
        let mut stack = vec![first];
        while let Some(node) = stack.pop() {
            if component[node].is_none() {
                component[node] = Some(first);
                stack.extend(&backward[node]);
            }
        }
    }
    component.into_iter().map(|c| c.unwrap_or(count)).collect()
}

#[cfg(test)]
mod tests {
    use super::components;

    #[test]
    fn only_nodes_that_reach_each_other_share_a_component() {
        // 0 → 1 → 2 → 1, 2 → 3, 4 → 4
        let next = [vec![1], vec![2], vec![1, 3], vec![], vec![4]];
        let found = components(5, |node| next[node].clone());
        assert_eq!(found[1], found[2]);
        for (a, b) in [(0, 1), (1, 3), (0, 3), (3, 4), (0, 4)] {
            assert_ne!(found[a], found[b], "{a} and {b}");
        }
    }
}
