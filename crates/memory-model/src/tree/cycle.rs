// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cycle check: whether a region would contain itself.

use alloc::collections::BTreeSet;
use alloc::vec;

use crate::ids::RegionId;
use crate::region::Kind;
use crate::tree::Tree;

impl<H> Tree<H> {
    /// Whether `inner` is `outer`, or lies in it, or is shown in it by an alias.
    ///
    /// The search goes upwards, from `inner` to its parents and aliases, because a
    /// region usually has far fewer of these than regions below it.
    pub(crate) fn contains(&self, outer: RegionId, inner: RegionId) -> bool {
        self.search(outer, inner).0
    }

    /// The same, with the number of regions visited.
    fn search(&self, outer: RegionId, inner: RegionId) -> (bool, usize) {
        if outer == inner {
            return (true, 0);
        }
        let can_contain = self.node(outer).is_ok_and(|node| {
            !node.children.is_empty() || matches!(node.region.kind(), Kind::Alias { .. })
        });
        if !can_contain {
            return (false, 0);
        }
        let mut seen = BTreeSet::new();
        let mut around = vec![inner];
        while let Some(id) = around.pop() {
            if id == outer {
                return (true, seen.len());
            }
            let Ok(node) = self.node(id) else { continue };
            if seen.insert(id) {
                around.extend(node.place.map(|place| place.parent));
                around.extend(&node.aliases);
            }
        }
        (false, seen.len())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::error::TreeError;
    use crate::region::Region;
    use crate::tree::node::Place;

    /// Looks downwards, at all that is in a region.
    fn reaches(tree: &Tree<()>, from: RegionId, to: RegionId) -> bool {
        let node = tree.node(from).unwrap();
        let target = match *node.region.kind() {
            Kind::Alias { target, .. } => Some(target),
            _ => None,
        };
        let children = node.children.all();
        let below = children.iter().map(|child| child.id).chain(target);
        from == to || { below }.any(|id| reaches(tree, id, to))
    }

    fn place(parent: RegionId) -> Place {
        Place {
            parent,
            address: 0,
            priority: 0,
        }
    }

    fn container(tree: &mut Tree<()>) -> RegionId {
        tree.add(Region::container("c", 1 << 32)).unwrap()
    }

    proptest! {
        #[test]
        fn only_a_region_that_would_contain_itself_is_refused(
            regions in prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 2..24),
            placings in prop::collection::vec(
                (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()),
                1..80,
            ),
        ) {
            let mut tree = Tree::new(crate::ids::ModelId::next());
            let mut all: Vec<RegionId> = Vec::new();
            for target in regions {
                let region = match target.filter(|_| !all.is_empty()) {
                    Some(target) => Region::alias("a", all[target.index(all.len())], 0, 1 << 32),
                    None => Region::container("c", 1 << 32),
                };
                all.push(tree.add(region).unwrap());
            }
            for (child, parent, leaves) in placings {
                let [child, parent] = [child, parent].map(|index| all[index.index(all.len())]);
                if leaves {
                    let _ = tree.unplace(child);
                }
                let expected = reaches(&tree, child, parent);
                let placed = tree.node(child).unwrap().place.is_some();
                let result = tree.place_at(child, place(parent));
                match result {
                    Err(TreeError::AlreadyPlaced { .. }) => prop_assert!(placed),
                    Err(TreeError::Cycle { .. }) => prop_assert!(expected && !placed),
                    other => prop_assert!(other.is_ok() && !expected && !placed),
                }
            }
        }
    }

    #[test]
    fn placing_an_alias_does_not_visit_its_target() {
        let mut tree = Tree::new(crate::ids::ModelId::next());
        let [full, root] = [(); 2].map(|()| container(&mut tree));
        for _ in 0..1000 {
            let leaf = tree.add(Region::mmio("leaf", 1)).unwrap();
            assert_eq!(
                tree.search(leaf, full),
                (false, 0),
                "a leaf has nothing in it"
            );
            tree.place_at(leaf, place(full)).unwrap();
        }
        let alias = tree.add(Region::alias("alias", full, 0, 1)).unwrap();
        assert_eq!(tree.search(alias, root), (false, 1));
        tree.place_at(alias, place(root)).unwrap();
        assert_eq!(tree.search(full, root), (false, 1));
    }

    #[test]
    fn building_a_chain_from_below_visits_one_region_for_each_placing() {
        let mut tree = Tree::new(crate::ids::ModelId::next());
        let mut inner = container(&mut tree);
        for _ in 0..1000 {
            let outer = container(&mut tree);
            assert!(tree.search(inner, outer).1 <= 1);
            tree.place_at(inner, place(outer)).unwrap();
            inner = outer;
        }
    }

    #[test]
    fn a_region_shown_in_many_ways_is_visited_once() {
        let mut tree = Tree::new(crate::ids::ModelId::next());
        let lowest = container(&mut tree);
        let mut shown = lowest;
        for _ in 0..64 {
            let around = container(&mut tree);
            for _ in 0..2 {
                let alias = tree.add(Region::alias("alias", shown, 0, 1)).unwrap();
                tree.place_at(alias, place(around)).unwrap();
            }
            shown = around;
        }
        let other = container(&mut tree);
        let leaf = tree.add(Region::mmio("leaf", 1)).unwrap();
        tree.place_at(leaf, place(other)).unwrap();
        assert_eq!(tree.search(other, lowest), (false, 1 + 3 * 64));
        assert!(tree.contains(shown, lowest));
    }
}
