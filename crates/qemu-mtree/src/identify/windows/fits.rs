// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Applies rule 4: the target that fills a window best.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

use super::assigned::{Assigned, Suits};
use super::{Trees, Window};
use crate::parse::dump::Drawn;
use crate::rules;

/// The sizes of a bridge's windows for ports and for memory while its registers
/// are 0. Such a window at address 0 does not show where firmware placed
/// devices.
const UNSET: [u128; 2] = [0x1000, 0x10_0000];

/// Returns the target of each alias by rule 4, if any region is visible through
/// it. All `windows` have the same candidate targets and are in the order of
/// the dump. The first window shows the first target.
pub(crate) fn filled<'a>(
    trees: &'a Trees<'a>,
    windows: &[Window],
) -> (Vec<Option<usize>>, Assigned<'a>) {
    let mut fits = fits(trees, windows);
    // Nested buses can fill a window equally well by every criterion. The
    // function tries all orders that a few keys produce, and chooses the one
    // that explains the most bytes of all windows.
    let children = |fit: &Fit| trees.dump.regions[fit.target].children.len();
    let best = |fit: &Fit| Reverse((fit.bytes, fit.largest, fit.in_all));
    let order = |fit: &Fit| (fit.window, fit.target);
    let mut tries = Vec::new();
    fits.sort_by_key(|fit| (best(fit), children(fit), order(fit)));
    tries.push(settle(trees, windows, &fits));
    fits.sort_by_key(|fit| (best(fit), children(fit), Reverse(order(fit))));
    tries.push(settle(trees, windows, &fits));
    fits.sort_by_key(|fit| (best(fit), Reverse(children(fit)), order(fit)));
    tries.push(settle(trees, windows, &fits));
    fits.sort_by_key(|fit| (best(fit), Reverse(children(fit)), Reverse(order(fit))));
    let mut chosen = settle(trees, windows, &fits);
    for other in tries.into_iter().rev() {
        if other.0 >= chosen.0 {
            chosen = other;
        }
    }
    (chosen.1, chosen.2)
}

/// A possible target of an alias.
struct Fit {
    /// The number of bytes of the window that it fills.
    bytes: u128,
    /// The size of the largest piece among these bytes.
    largest: u128,
    /// The number of bytes that it fills in the windows of all classes in the
    /// same place.
    in_all: u128,
    window: usize,
    target: usize,
}

fn fits(trees: &Trees<'_>, windows: &[Window]) -> Vec<Fit> {
    let regions = &trees.dump.regions;
    let mut fits = Vec::new();
    let mut most = HashMap::new();
    for (number, window) in windows.iter().enumerate() {
        for &target in &window.targets {
            let pieces = pieces(regions, window.alias, target);
            let bytes: u128 = pieces.iter().sum();
            if let Some(&largest) = pieces.iter().max() {
                fits.push((bytes, largest, number, target));
                let place = trees.place(window.alias);
                let most = most.entry((place, target, window.class)).or_insert(0);
                *most = bytes.max(*most);
            }
        }
    }
    let mut in_all = HashMap::new();
    for ((place, target, _), bytes) in most {
        *in_all.entry((place, target)).or_insert(0) += bytes;
    }
    let fit = |(bytes, largest, window, target): (u128, u128, usize, usize)| Fit {
        bytes,
        largest,
        in_all: in_all[&(trees.place(windows[window].alias), target)],
        window,
        target,
    };
    fits.into_iter().map(fit).collect()
}

/// Assigns targets from the outermost buses inwards, on each bus the best fits
/// first. Returns the number of explained bytes and the assignment.
fn settle<'a>(
    trees: &'a Trees<'a>,
    windows: &[Window],
    fits: &[Fit],
) -> (u128, Vec<Option<usize>>, Assigned<'a>) {
    let mut assigned = Assigned::new(trees, windows);
    let mut found = vec![None; windows.len()];
    let mut inner = HashSet::new();
    if let Some(window) = windows.first() {
        inner.extend(window.targets.iter().map(|&target| trees.root(target)));
        let first = window.targets.first().copied();
        first.inspect(|&first| assigned.assign(window, first));
        found[0] = first;
    }
    let mut by_tree: Vec<(usize, Vec<&Fit>)> = Vec::new();
    let mut number_of = HashMap::new();
    for fit in fits {
        let tree = trees.root(windows[fit.window].alias);
        let number = *number_of.entry(tree).or_insert(by_tree.len());
        if number == by_tree.len() {
            by_tree.push((tree, Vec::new()));
        }
        by_tree[number].1.push(fit);
    }
    // The trees that no window shows come first, then the trees that those
    // show, and so on. Trees that are not reached this way come last, in any
    // order.
    let (outer, rest): (Vec<_>, Vec<_>) =
        (0..by_tree.len()).partition(|&number| !inner.contains(&by_tree[number].0));
    let mut explained = 0;
    let mut todo: VecDeque<usize> = outer.into();
    let mut rest = rest.into_iter();
    let mut done = HashSet::new();
    while let Some(number) = todo.pop_front().or_else(|| rest.next()) {
        if !done.insert(number) {
            continue;
        }
        let equivalent = |a: &&Fit, b: &&Fit| (a.bytes, a.largest) == (b.bytes, b.largest);
        for fits in by_tree[number].1.chunk_by(equivalent) {
            for least in [Suits::Expected, Suits::Allowed] {
                for fit in fits {
                    let window = &windows[fit.window];
                    let open = found[fit.window].is_none();
                    if open && assigned.suits(window, fit.target) >= least {
                        assigned.assign(window, fit.target);
                        found[fit.window] = Some(fit.target);
                    }
                }
            }
        }
        for fit in &by_tree[number].1 {
            if found[fit.window] == Some(fit.target) {
                explained += fit.bytes;
                todo.extend(number_of.get(&trees.root(fit.target)));
            }
        }
    }
    (explained, found, assigned)
}

/// Returns the sizes of the target's children that lie entirely inside the
/// window.
fn pieces(regions: &[Drawn], window: usize, target: usize) -> Vec<u128> {
    let window = &regions[window];
    let Some(alias) = &window.alias else {
        return Vec::new();
    };
    if alias.offset == 0 && UNSET.contains(&window.size) {
        return Vec::new();
    }
    let first = u128::from(alias.offset);
    let inside = |child: &&Drawn| {
        let empty = rules::is_empty(child.size, child.kind, child.alias.is_some());
        let start = u128::from(child.address);
        !empty && !child.disabled && start >= first && start + child.size <= first + window.size
    };
    let children = regions[target].children.iter();
    let inside = children.map(|&child| &regions[child]).filter(inside);
    inside.map(|child| child.size).collect()
}
