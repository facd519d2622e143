// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds drawings of the same region.
//!
//! QEMU draws a region inside its parent. It draws the region again for each
//! address space or `memory-region:` block whose root it is, at its own address
//! and with its whole subtree. A root is therefore the same region as an
//! identical drawing inside another tree. The root of a block can also be the
//! root of an address space.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::parse::dump::{Drawn, Dump};
use crate::region_type::RegionType;

/// For each drawing, the canonical drawing of the same region.
#[derive(Debug)]
pub(crate) struct Identity {
    canonical: Vec<usize>,
}

/// The properties that all drawings of one region share.
#[derive(PartialEq, Eq, Hash)]
struct Look<'a> {
    name: &'a str,
    kind: RegionType,
    address: u64,
    size: u128,
    priority: i32,
    switches: (bool, bool),
    alias: Option<(&'a str, u64)>,
    /// The look numbers of the children.
    children: Vec<usize>,
}

impl Identity {
    /// Groups the drawings of a dump.
    pub(crate) fn of(dump: &Dump) -> Self {
        let looks = looks(&dump.regions);
        let sizes = tree_sizes(&dump.regions);
        let mut canonical: Vec<usize> = (0..dump.regions.len()).collect();

        // Drawings that have a parent, by look.
        let mut inner: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, region) in dump.regions.iter().enumerate() {
            if region.parent.is_some() {
                inner.entry(looks[index]).or_default().push(index);
            }
        }
        // A tree cannot lie in a smaller one. Processing the largest trees
        // first settles every tree that may contain a root before the root
        // itself.
        let spaces = dump.spaces.iter().map(|spaces| (spaces.root, false));
        let targets = dump.targets.iter().map(|&root| (root, true));
        let mut roots: Vec<(usize, bool)> = spaces.chain(targets).collect();
        roots.sort_by_key(|&(root, _)| std::cmp::Reverse(sizes[root]));

        let first_shown_by = first_shown_by(dump);
        // Each address space has its own root, and so has each block. A root
        // takes the next identical drawing that no other root of its sort uses.
        let mut used: [HashSet<usize>; 2] = [HashSet::new(), HashSet::new()];
        let mut cursors: [HashMap<usize, usize>; 2] = [HashMap::new(), HashMap::new()];
        let mut free_spaces: HashMap<usize, VecDeque<usize>> = HashMap::new();
        for (root, is_target) in roots {
            let (look, sort) = (looks[root], usize::from(is_target));
            // Newer versions of QEMU print `container` for a region without a
            // parent.
            let has_parent = dump.regions[root].kind != RegionType::Container;
            let inside = inner.get(&look).filter(|_| has_parent);
            let found = inside.and_then(|inside| {
                let cursor = cursors[sort].entry(look).or_insert(0);
                let first = canonical[*inside.first()?];
                while let Some(&next) = inside.get(*cursor) {
                    *cursor += 1;
                    if used[sort].insert(canonical[next]) {
                        return Some(canonical[next]);
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
                    canonical[root + below] = canonical[found + below];
                }
            }
        }
        Self { canonical }
    }

    /// Returns the canonical drawing of the region drawn at `index`.
    pub(crate) fn canonical(&self, index: usize) -> usize {
        self.canonical[index]
    }

    /// Returns whether the drawing at `index` is the canonical one.
    pub(crate) fn is_canonical(&self, index: usize) -> bool {
        self.canonical[index] == index
    }
}

/// Maps the first block of each name and type to the root of the tree that
/// contains the first alias of it. The block is not the same region as that
/// root.
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

/// Returns a number for each drawing. Identical drawings have the same number.
fn looks(regions: &[Drawn]) -> Vec<usize> {
    let mut numbers = HashMap::new();
    let mut looks = vec![0; regions.len()];
    // Children come after their parents, so the reverse order visits them
    // first.
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

/// Returns the number of regions in each tree, including its root.
fn tree_sizes(regions: &[Drawn]) -> Vec<usize> {
    let mut sizes = vec![1; regions.len()];
    for (index, region) in regions.iter().enumerate().rev() {
        if let Some(parent) = region.parent {
            sizes[parent] += sizes[index];
        }
    }
    sizes
}
