// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is rendered after a step of a transaction: its windows.

use alloc::vec::Vec;

use guest_ranges::AddrRange;

use crate::ids::RegionId;
use crate::model::MemoryModel;
use crate::region::Region;
use crate::render::extents::Extents;
use crate::render::windows::Windows;
use crate::transaction::Transaction;

pub(crate) const PAGE: u64 = 0x1000;

/// Fewer for Miri, which is slow.
pub(crate) const MANY: u64 = if cfg!(miri) { 100 } else { 1000 };

/// A model with other regions at every second page. All regions lie in the root of
/// a space.
pub(crate) struct Among {
    pub(crate) model: MemoryModel,
    pub(crate) root: RegionId,
}

impl Among {
    pub(crate) fn others(count: u64) -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("root", 1 << 64)).unwrap();
        for n in 0..count {
            pages(&mut t, root, 2 * n * PAGE, 1);
        }
        t.commit().unwrap();
        model.add_space("space", root).unwrap();
        Self { model, root }
    }

    /// Adds a container with a page at each offset; places it at 0.
    pub(crate) fn container(
        &mut self,
        size: u128,
        offsets: impl IntoIterator<Item = u64>,
    ) -> RegionId {
        let mut t = self.model.transaction();
        let container = t.add(Region::container("container", size)).unwrap();
        for offset in offsets {
            pages(&mut t, container, offset, 1);
        }
        t.place(container, self.root, 0, 1).unwrap();
        t.commit().unwrap();
        container
    }

    /// What would be rendered after a step.
    pub(crate) fn windows(
        &mut self,
        step: impl FnOnce(&mut Transaction<'_, ()>),
    ) -> Vec<(u64, u64)> {
        let mut t = self.model.transaction();
        t.windows = Windows::default();
        step(&mut t);
        let ids = t.model.spaces.iter().map(|space| space.id);
        let mut spaces = t.windows.by_space(ids).into_iter();
        let windows = spaces.next().map(|(_, windows)| windows);
        t.commit().unwrap();
        let bounds = |window: AddrRange| (window.start(), window.last());
        windows.into_iter().flatten().map(bounds).collect()
    }
}

/// Places a trapped region of `count` pages.
pub(crate) fn pages(
    t: &mut Transaction<'_, ()>,
    parent: RegionId,
    at: u64,
    count: u64,
) -> RegionId {
    let region = Region::mmio("pages", u128::from(count * PAGE));
    let region = t.add(region).unwrap();
    t.place(region, parent, at, 0).unwrap();
    region
}

pub(crate) fn page(at: u64) -> (u64, u64) {
    (at, at + PAGE - 1)
}

#[test]
fn of_a_large_container_only_the_childs_old_and_new_place_are_rendered() {
    let mut among = Among::others(10 * MANY);
    let child = (10 * MANY / 2 + 1) * PAGE;
    let container = among.container(1 << 48, [child]);
    let moved = among.windows(|t| t.move_to(container, 2 * PAGE).unwrap());
    assert_eq!(moved, [page(child), page(child + 2 * PAGE)]);
    let here = [page(child + 2 * PAGE)];
    for enabled in [false, true] {
        let switched = among.windows(|t| t.set_enabled(container, enabled).unwrap());
        assert_eq!(switched, here);
    }
    let switched = among.windows(|t| t.set_readonly(container, true).unwrap());
    assert_eq!(switched, here);
    assert_eq!(among.windows(|t| t.unplace(container).unwrap()), here);
    let root = among.root;
    let placed = among.windows(|t| t.place(container, root, 0, 0).unwrap());
    assert_eq!(placed, [page(child)]);
}

#[test]
fn placing_an_empty_container_renders_nothing() {
    let mut among = Among::others(100);
    let container = among.container(1 << 64, []);
    assert_eq!(among.windows(|t| t.unplace(container).unwrap()), []);
    let root = among.root;
    let placed = among.windows(|t| t.place(container, root, 0, 0).unwrap());
    assert_eq!(placed, []);
}

#[test]
fn what_is_disabled_in_a_container_is_not_rendered_with_it() {
    let mut among = Among::others(1);
    let container = among.container(1 << 48, [PAGE, 99 * PAGE]);
    let hidden = among.model.tree().children(container).unwrap()[0];
    among.windows(|t| t.set_enabled(hidden, false).unwrap());
    let moved = among.windows(|t| t.move_to(container, PAGE).unwrap());
    assert_eq!(moved, [(PAGE, 3 * PAGE - 1)]);
}

#[test]
fn a_region_that_answers_itself_is_rendered_as_a_whole() {
    let mut among = Among::others(100);
    let root = among.root;
    let placed = among.windows(|t| {
        let reserved = t.add(Region::reservation("reserved", 1 << 20)).unwrap();
        pages(t, reserved, 0, 1);
        t.place(reserved, root, PAGE, 0).unwrap();
    });
    assert_eq!(placed, [(PAGE, PAGE + (1 << 20) - 1)]);
}

#[test]
fn of_an_alias_of_an_alias_only_what_both_show_is_rendered() {
    let mut among = Among::others(MANY);
    let container = among.container(1 << 32, (0..100).map(|n| n << 20));
    let root = among.root;
    // From the middle of the child at 5 << 20 to that of the one at 7 << 20.
    let placed = among.windows(|t| {
        let half = PAGE / 2;
        let inner = Region::alias("inner", container, 4 << 20, 1 << 30);
        let inner = t.add(inner).unwrap();
        let outer = Region::alias("outer", inner, (1 << 20) + half, 2 << 20);
        let outer = t.add(outer).unwrap();
        t.place(outer, root, 1 << 40, 0).unwrap();
    });
    let at = |offset: u64| (1 << 40) + offset;
    let half = PAGE / 2;
    // Nothing else lies between them, and one window is less than three.
    assert_eq!(placed, [(at(0), at((2 << 20) - 1))]);
    let mut known = Extents::of(container);
    let part = AddrRange::new((5 << 20) + half, 2 << 20).unwrap();
    // The container, and three of its hundred children.
    let mut left = 4;
    let found = known.within(among.model.tree(), part, &mut left);
    let bounds: Vec<_> = found
        .unwrap()
        .iter()
        .map(|e| (e.start(), e.last()))
        .collect();
    let (first, last) = (page(5 << 20), page(7 << 20));
    let all = [
        (first.0 + half, first.1),
        page(6 << 20),
        (last.0, last.0 + half - 1),
    ];
    assert_eq!(bounds, all);
    let again = known.within(among.model.tree(), part, &mut left);
    assert_eq!(again.map(<[_]>::len), Some(3), "it is known");
    let other = known.within(among.model.tree(), AddrRange::ALL, &mut left);
    assert_eq!(other, None);
}

// This visits too many regions for Miri.
#[cfg(not(miri))]
#[test]
fn a_tree_too_complex_to_render_is_not_visited_forever() {
    let mut among = Among::others(1);
    let root = among.root;
    let mut t = among.model.transaction();
    let mut shown = pages(&mut t, root, 1 << 60, 1);
    for level in 0..40 {
        let outer = Region::container("outer", u128::from(2 * PAGE) << level);
        let outer = t.add(outer).unwrap();
        for n in 0..2 {
            let alias = Region::alias("alias", shown, 0, u128::from(PAGE) << level);
            let alias = t.add(alias).unwrap();
            t.place(alias, outer, (n * PAGE) << level, 0).unwrap();
        }
        shown = outer;
    }
    t.windows = Windows::default();
    t.place(shown, root, 0, 0).unwrap();
    let ids = t.model.spaces.iter().map(|space| space.id);
    let windows = t.windows.by_space(ids);
    assert_eq!(windows[0].1[..], [AddrRange::ALL]);
}
