// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `validate` finds each kind of damage.

use super::*;
use guest_ranges::{FileSlice, PAGE_SIZE};

use crate::backing::PrivateMmio;
use crate::ids::RegionId;
use crate::region::Region;
use crate::runs::spare::SpareNodes;
use crate::runs::{Edit, Runs};

/// Two devices, side by side, and a BAR of two pages that the guest has
/// accepted.
fn machine() -> (MemoryModel, SpaceId, [RegionId; 4]) {
    let mut model = MemoryModel::new();
    let file = FileSlice::new(Arc::new(std::io::stdin()), 0, 2 * PAGE_SIZE).unwrap();
    let mut t = model.transaction();
    let regions = [
        Region::container("memory", 1 << 64),
        Region::mmio("one", 0x1000),
        Region::mmio("other", 0x1000),
        Region::private_mmio("bar", PrivateMmio::new(file)),
    ];
    let ids = regions.map(|region| t.add(region).unwrap());
    for (id, address) in ids[1..].iter().zip([0x1000, 0x2000, 0x8000]) {
        t.place(*id, ids[0], address, 0).unwrap();
    }
    t.commit().unwrap();
    let space = model.add_space("memory", ids[0]).unwrap();
    model.accept(space, range(0x8000, 2 * PAGE_SIZE)).unwrap();
    assert_eq!(model.validate(), Ok(()));
    (model, space, ids)
}

fn range(start: u64, size: u64) -> AddrRange {
    AddrRange::new(start, size.into()).unwrap()
}

/// A model with edited runs in its view.
fn showing(edit: impl FnOnce(&mut SmallVec<[FlatRange<()>; 2]>)) -> MemoryModel {
    let (mut model, space, _) = machine();
    let mut shown: SmallVec<_> = model.view(space).ranges().cloned().collect();
    edit(&mut shown);
    let mut runs = Runs::new();
    let edit = Edit {
        range: AddrRange::ALL,
        runs: shown,
    };
    runs.edit(&[edit], &mut SpareNodes::default());
    model
        .spaces
        .get_mut(space)
        .unwrap()
        .publish(&Arc::new(FlatView::of(runs)));
    model
}

#[track_caller]
fn assert_view(model: &MemoryModel, expected: u64) {
    match model.validate().unwrap_err() {
        Invalid::View { at, space, .. } if at == expected => assert_eq!(space, "memory"),
        other => panic!("{other}"),
    }
}

#[track_caller]
fn assert_runs(model: &MemoryModel, expected: u64, says: &str) {
    match model.validate().unwrap_err() {
        Invalid::Runs { at, what, .. } if at == expected && what.contains(says) => {}
        other => panic!("{other}"),
    }
}

#[test]
fn a_view_without_what_the_tree_has_is_found() {
    assert_view(&showing(|runs| drop(runs.remove(1))), 0x2000);
    assert_view(&showing(|runs| drop(runs.pop())), 0x8000);
    assert_view(&showing(SmallVec::clear), 0x1000);
}

#[test]
fn a_view_with_what_the_tree_does_not_have_is_found() {
    let model = showing(|runs| {
        let mut run = runs[0].clone();
        run.range = range(0xf000, 0x1000);
        runs.push(run);
    });
    assert_view(&model, 0xf000);
}

#[test]
fn a_run_that_answers_in_another_way_is_found() {
    assert_view(&showing(|runs| runs[2].attributes.readonly = true), 0x8000);
    let other_bytes = |runs: &mut SmallVec<[FlatRange<()>; 2]>| {
        let run = &mut runs[2];
        run.range = range(0x8000, PAGE_SIZE);
        run.offset = PAGE_SIZE;
    };
    assert_view(&showing(other_bytes), 0x8000);
    // An equal region is not the one that the tree has.
    let model = showing(|runs| runs[0].region = Arc::new(Region::mmio("one", 0x1000)));
    assert_view(&model, 0x1000);
}

#[test]
fn runs_that_could_be_one_are_found() {
    let model = showing(|runs| {
        let mut second = runs[1].clone();
        runs[1].range = range(0x2000, 0x800);
        second.range = range(0x2800, 0x800);
        second.offset = 0x800;
        runs.insert(2, second);
    });
    assert_runs(&model, 0x2800, "not joined");
}

#[test]
fn runs_that_overlap_are_found() {
    let model = showing(|runs| runs[0].range = range(0x1000, 0x1001));
    assert_runs(&model, 0x2000, "has not ended");
}

#[test]
fn a_run_of_bytes_that_its_region_does_not_have_is_found() {
    let model = showing(|runs| runs[0].offset = 1);
    assert_runs(&model, 0x1000, "not inside its region");
}

#[test]
fn readers_that_see_another_view_are_found() {
    let (mut model, space, _) = machine();
    let same = FlatView::of(model.view(space).runs().clone());
    model.spaces.get_mut(space).unwrap().view = Arc::new(same);
    let error = model.validate().unwrap_err();
    assert_eq!(error.to_string(), "'memory': readers see another view");
}

#[test]
fn a_switch_that_was_set_behind_the_views_back_is_found() {
    let (mut model, _, [_, one, ..]) = machine();
    model.tree.node_mut(one).unwrap().switches.enabled = false;
    assert_view(&model, 0x1000);
}

#[test]
fn a_root_and_its_space_that_do_not_agree_are_found() {
    let (mut model, space, [root, one, ..]) = machine();
    model.tree.node_mut(root).unwrap().spaces.clear();
    let error = model.validate().unwrap_err();
    assert!(matches!(error, Invalid::Space { .. }), "{error}");

    model.tree.node_mut(root).unwrap().spaces = [space, space].into();
    let error = model.validate().unwrap_err();
    assert!(matches!(error, Invalid::Space { .. }), "{error}");

    model.tree.node_mut(root).unwrap().spaces = [space].into();
    model.tree.node_mut(one).unwrap().spaces.push(space);
    let error = model.validate().unwrap_err();
    assert!(
        matches!(error, Invalid::Region { id, .. } if id == one),
        "{error}"
    );
}

#[test]
fn accepted_pages_that_are_no_private_mmio_are_found() {
    for (accepted, at) in [
        (range(0xa000, PAGE_SIZE), 0xa000),
        (range(0x7000, PAGE_SIZE), 0x7000),
        (range(0x1000, PAGE_SIZE), 0x1000),
    ] {
        let (mut model, space, _) = machine();
        model
            .spaces
            .get_mut(space)
            .unwrap()
            .accepted
            .insert(accepted);
        let error = model.validate().unwrap_err();
        assert!(
            matches!(error, Invalid::Accepted { at: found, .. } if found == at),
            "{error}"
        );
    }
}
