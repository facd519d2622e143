// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which of several regions of one name an alias shows, by what is there.
//!
//! Every PCI bridge has a bus of the same name behind it and shows it to the
//! bus before it through aliases of the same names. The order of a dump tells
//! them apart only while all addresses ascend alike. But firmware opens a
//! bridge's windows where the devices behind it are, so:
//!
//! 1. Aliases of one name show different targets, if there are enough of them.
//! 2. The aliases that show one target lie in the same region, and no more
//!    targets are shown in it than it has aliases of one name.
//! 3. No region lies, through aliases, inside itself.
//! 4. Among what these allow, a window shows the target that fills most of it,
//!    and of equals the one that does so with larger pieces: the outer of two
//!    nested buses never fills less than the inner one, nor with smaller ones.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

use super::identity::Identity;
use super::parse::{Drawn, Dump};
use super::rules;

/// The sizes of a bridge's windows for ports and for memory while its registers
/// are 0. At address 0, these are not where firmware found devices.
const UNSET: [u128; 2] = [0x1000, 0x10_0000];

/// An alias whose target's name and type several regions have, at least as many
/// as there are aliases of its own name that show one of them.
pub(super) struct Window {
    /// The region that is the alias.
    pub(super) alias: usize,
    /// Equal for aliases of one name that show targets of one name and type.
    pub(super) class: usize,
    /// What it may show: roots of blocks.
    pub(super) targets: Vec<usize>,
}

/// Whether an alias may show a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suits {
    /// One of rules 1 to 3 forbids it.
    Forbidden,
    /// None does.
    Allowed,
    /// Aliases of other names that lie where this one lies show it.
    Expected,
}

/// Which tree each region is in.
pub(super) struct Trees<'a> {
    dump: &'a Dump,
    identity: &'a Identity,
    roots: Vec<usize>,
}

impl<'a> Trees<'a> {
    pub(super) fn of(dump: &'a Dump, identity: &'a Identity) -> Self {
        let mut roots: Vec<usize> = Vec::with_capacity(dump.regions.len());
        // Parents come before their children.
        for (index, region) in dump.regions.iter().enumerate() {
            roots.push(region.parent.map_or(index, |parent| roots[parent]));
        }
        Self {
            dump,
            identity,
            roots,
        }
    }

    /// The root of the tree that a region is in.
    fn root(&self, region: usize) -> usize {
        let root = self.roots[self.identity.same(region)];
        self.identity.same(root)
    }

    /// The region that an alias lies in.
    fn place(&self, alias: usize) -> Option<usize> {
        let parent = self.dump.regions[alias].parent?;
        Some(self.identity.same(parent))
    }
}

/// Which targets are taken by whom.
pub(super) struct Taken<'a> {
    trees: &'a Trees<'a>,
    pairs: HashSet<(usize, usize)>,
    /// For a target, in which region the aliases are that show it.
    shown_in: HashMap<usize, Option<usize>>,
    /// For such a region, how many targets are shown in it, and how many can be.
    shown: HashMap<Option<usize>, usize>,
    most: HashMap<Option<usize>, usize>,
    /// For the root of a tree, the root of the one that shows it.
    behind: HashMap<usize, usize>,
}

impl<'a> Taken<'a> {
    fn new(trees: &'a Trees<'a>, windows: &[Window]) -> Self {
        let (mut members, mut most) = (HashMap::new(), HashMap::new());
        for window in windows {
            let place = trees.place(window.alias);
            let members = members.entry((place, window.class)).or_insert(0);
            *members += 1;
            let most = most.entry(place).or_insert(0);
            *most = (*most).max(*members);
        }
        Self {
            trees,
            pairs: HashSet::new(),
            shown_in: HashMap::new(),
            shown: HashMap::new(),
            most,
            behind: HashMap::new(),
        }
    }

    /// What rules 1 to 3 say of an alias that shows a target.
    pub(super) fn suits(&self, window: &Window, target: usize) -> Suits {
        let place = self.trees.place(window.alias);
        let shown_in = self.shown_in.get(&target);
        if self.pairs.contains(&(window.class, target))
            || shown_in.is_some_and(|&other| other != place)
            || (shown_in.is_none() && self.shown.get(&place) >= self.most.get(&place))
            || self.is_behind(window.alias, target)
        {
            return Suits::Forbidden;
        }
        match shown_in {
            Some(_) => Suits::Expected,
            None => Suits::Allowed,
        }
    }

    /// Settles that an alias shows a target.
    pub(super) fn take(&mut self, window: &Window, target: usize) {
        let place = self.trees.place(window.alias);
        self.pairs.insert((window.class, target));
        if self.shown_in.insert(target, place).is_none() {
            *self.shown.entry(place).or_insert(0) += 1;
        }
        let (from, to) = (self.trees.root(window.alias), self.trees.root(target));
        self.behind.insert(to, from);
    }

    /// Whether a region is in a target's tree, or in one seen through it.
    fn is_behind(&self, region: usize, target: usize) -> bool {
        let target = self.trees.root(target);
        let mut at = self.trees.root(region);
        // No tree is behind itself, unless nothing else was left to show.
        for _ in 0..=self.behind.len() {
            if at == target {
                return true;
            }
            match self.behind.get(&at) {
                Some(&next) => at = next,
                None => return false,
            }
        }
        true
    }
}

/// What each alias shows by rule 4, where anything is seen through it. `windows`
/// all have the same targets and come in the order of the dump; the first of
/// them shows the first target.
pub(super) fn filled<'a>(
    trees: &'a Trees<'a>,
    windows: &[Window],
) -> (Vec<Option<usize>>, Taken<'a>) {
    let mut fits = fits(trees, windows);
    // Nested buses can fill a window alike in everything. All orders of them are
    // tried that a few keys give; what explains most of all windows is right.
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

/// A target that an alias may show.
struct Fit {
    /// How much of the window it fills.
    bytes: u128,
    /// How many of these are in one piece.
    largest: u128,
    /// How much of the windows of all classes in the same place.
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

/// Settles what fits, from the outermost buses inwards and on each the best
/// first: how many bytes are explained, and how.
fn settle<'a>(
    trees: &'a Trees<'a>,
    windows: &[Window],
    fits: &[Fit],
) -> (u128, Vec<Option<usize>>, Taken<'a>) {
    let mut taken = Taken::new(trees, windows);
    let mut found = vec![None; windows.len()];
    let mut inner = HashSet::new();
    if let Some(window) = windows.first() {
        inner.extend(window.targets.iter().map(|&target| trees.root(target)));
        let first = window.targets.first().copied();
        first.inspect(|&first| taken.take(window, first));
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
    // Those that no window shows come first, then what they show, and so on;
    // at last, in whatever order, trees that are not reached so.
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
        let alike = |a: &&Fit, b: &&Fit| (a.bytes, a.largest) == (b.bytes, b.largest);
        for fits in by_tree[number].1.chunk_by(alike) {
            for least in [Suits::Expected, Suits::Allowed] {
                for fit in fits {
                    let window = &windows[fit.window];
                    let open = found[fit.window].is_none();
                    if open && taken.suits(window, fit.target) >= least {
                        taken.take(window, fit.target);
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
    (explained, found, taken)
}

/// The sizes of the regions in a target that lie entirely in a window of it.
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
