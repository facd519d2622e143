// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Applies rules 1 to 3: which targets an alias may still have.

use std::collections::{HashMap, HashSet};

use super::{Trees, Window};

/// How well a target suits an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Suits {
    /// Rule 1, 2 or 3 forbids it.
    Forbidden,
    /// No rule forbids it.
    Allowed,
    /// It is the target of an alias with another name in the same region.
    Expected,
}

/// The targets assigned so far.
pub(crate) struct Assigned<'a> {
    trees: &'a Trees<'a>,
    pairs: HashSet<(usize, usize)>,
    /// For each target, the region that contains its aliases.
    shown_in: HashMap<usize, Option<usize>>,
    /// For each such region, the number of targets shown in it, and the limit.
    shown: HashMap<Option<usize>, usize>,
    most: HashMap<Option<usize>, usize>,
    /// For the root of a tree, the root of the tree that shows it.
    behind: HashMap<usize, usize>,
}

impl<'a> Assigned<'a> {
    pub(super) fn new(trees: &'a Trees<'a>, windows: &[Window]) -> Self {
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

    /// Returns what rules 1 to 3 determine about an alias and a target.
    pub(crate) fn suits(&self, window: &Window, target: usize) -> Suits {
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

    /// Assigns a target to an alias.
    pub(crate) fn assign(&mut self, window: &Window, target: usize) {
        let place = self.trees.place(window.alias);
        self.pairs.insert((window.class, target));
        if self.shown_in.insert(target, place).is_none() {
            *self.shown.entry(place).or_insert(0) += 1;
        }
        let (from, to) = (self.trees.root(window.alias), self.trees.root(target));
        self.behind.insert(to, from);
    }

    /// Returns whether a region is in the target's tree, or in a tree that is
    /// visible through it.
    fn is_behind(&self, region: usize, target: usize) -> bool {
        let target = self.trees.root(target);
        let mut at = self.trees.root(region);
        // A tree is behind itself only if an alias had no other target left.
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
