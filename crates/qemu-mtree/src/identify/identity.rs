// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which of the regions that a dump draws are one and the same.
//!
//! QEMU draws a region once inside the one it lies in, and once more as the
//! root of each address space or `memory-region:` block that it is the root
//! of, at its own address and with all that is below it. So a root is the same
//! region as a region inside another tree that is drawn exactly like it. A
//! block's root can also be an address space's.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::parse::dump::{Drawn, Dump};
use crate::region_type::RegionType;

/// For each drawn region, the one that stands for all that are the same.
#[derive(Debug)]
pub(crate) struct Identity {
    same: Vec<usize>,
}

/// Everything that two drawings of one region have in common.
#[derive(PartialEq, Eq, Hash)]
struct Look<'a> {
    name: &'a str,
    kind: RegionType,
    address: u64,
    size: u128,
    priority: i32,
    switches: (bool, bool),
    alias: Option<(&'a str, u64)>,
    /// The looks of the children, by number.
    children: Vec<usize>,
}

impl Identity {
    /// Finds out.
    pub(crate) fn of(dump: &Dump) -> Self {
        let looks = looks(&dump.regions);
        let sizes = tree_sizes(&dump.regions);
        let mut same: Vec<usize> = (0..dump.regions.len()).collect();

        // Who lies in another region, by look.
        let mut inner: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, region) in dump.regions.iter().enumerate() {
            if region.parent.is_some() {
                inner.entry(looks[index]).or_default().push(index);
            }
        }
        // A larger tree cannot lie in a smaller one: the largest come first,
        // so that whatever a root may lie in is settled before it.
        let spaces = dump.spaces.iter().map(|spaces| (spaces.root, false));
        let targets = dump.targets.iter().map(|&root| (root, true));
        let mut roots: Vec<(usize, bool)> = spaces.chain(targets).collect();
        roots.sort_by_key(|&(root, _)| std::cmp::Reverse(sizes[root]));

        let first_shown_by = first_shown_by(dump);
        // Address spaces are roots of their own, and so are blocks: each takes
        // the next that nobody of its sort took.
        let mut taken: [HashSet<usize>; 2] = [HashSet::new(), HashSet::new()];
        let mut cursors: [HashMap<usize, usize>; 2] = [HashMap::new(), HashMap::new()];
        let mut free_spaces: HashMap<usize, VecDeque<usize>> = HashMap::new();
        for (root, is_target) in roots {
            let (look, sort) = (looks[root], usize::from(is_target));
            // What lies in no other region says so, in newer QEMUs.
            let lies_somewhere = dump.regions[root].kind != RegionType::Container;
            let inside = inner.get(&look).filter(|_| lies_somewhere);
            let found = inside.and_then(|inside| {
                let cursor = cursors[sort].entry(look).or_insert(0);
                let first = same[*inside.first()?];
                while let Some(&next) = inside.get(*cursor) {
                    *cursor += 1;
                    if taken[sort].insert(same[next]) {
                        return Some(same[next]);
                    }
                }
                Some(first)
            });
            let found = match (found, is_target) {
                (None, true) => free_spaces.get_mut(&look).and_then(|free| {
                    let other = |&space: &usize| first_shown_by.get(&root) != Some(&space);
                    free.remove(free.iter().position(other)?)
                }),
                (None, false) => {
                    free_spaces.entry(look).or_default().push_back(root);
                    None
                }
                (found, _) => found,
            };
            if let Some(found) = found {
                for below in 0..sizes[root] {
                    same[root + below] = same[found + below];
                }
            }
        }
        Self { same }
    }

    /// The drawing that stands for the region drawn at `index`.
    pub(crate) fn same(&self, index: usize) -> usize {
        self.same[index]
    }

    /// Whether the drawing stands for its region.
    pub(crate) fn stands(&self, index: usize) -> bool {
        self.same[index] == index
    }
}

/// For the first block of each name and type, the root of the tree with the
/// first alias that shows it: that is some other region.
fn first_shown_by(dump: &Dump) -> HashMap<usize, usize> {
    let mut roots = HashMap::new();
    let mut root = 0;
    for (index, region) in dump.regions.iter().enumerate() {
        if region.parent.is_none() {
            root = index;
        }
        if let Some(alias) = &region.alias {
            roots.entry((&*alias.target, region.kind)).or_insert(root);
        }
    }
    let mut first = HashMap::new();
    for &block in &dump.targets {
        let region = &dump.regions[block];
        if let Some(root) = roots.remove(&(&*region.name, region.kind)) {
            first.insert(block, root);
        }
    }
    first
}

/// A number for each region; equal numbers are equal drawings.
fn looks(regions: &[Drawn]) -> Vec<usize> {
    let mut numbers = HashMap::new();
    let mut looks = vec![0; regions.len()];
    // Children come after their parents.
    for (index, region) in regions.iter().enumerate().rev() {
        let look = Look {
            name: &region.name,
            kind: region.kind,
            address: region.address,
            size: region.size,
            priority: region.priority,
            switches: (region.nonvolatile, region.disabled),
            alias: region.alias.as_ref().map(|a| (&*a.target, a.offset)),
            children: region.children.iter().map(|&child| looks[child]).collect(),
        };
        let next = numbers.len();
        looks[index] = *numbers.entry(look).or_insert(next);
    }
    looks
}

/// How many regions each tree has, its root included.
fn tree_sizes(regions: &[Drawn]) -> Vec<usize> {
    let mut sizes = vec![1; regions.len()];
    for (index, region) in regions.iter().enumerate().rev() {
        if let Some(parent) = region.parent {
            sizes[parent] += sizes[index];
        }
    }
    sizes
}
