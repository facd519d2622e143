// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Invalid ids: of removed regions and spaces, and of other models.

use crate::common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::{Log, Machine, Recorder, bytes, private_mmio};
use memory_model::{
    AddListenerError, AddSpaceError, MemoryModel, NoSuchSpace, PageState, Region, RegionId,
    RemoveListenerError, RemoveSpaceError, SpaceId, StateError, TreeError,
};

/// Two models built in the same way, with ids that look the same.
fn twins() -> [Machine; 2] {
    [0, 1].map(|_| {
        let mut m = Machine::new();
        m.put(private_mmio("bar", 0x1000), 0);
        m
    })
}

/// Looks, without a result, at what there is not.
fn panics<T>(model: &mut MemoryModel, space: SpaceId, look: fn(&mut MemoryModel, SpaceId) -> T) {
    let looked = catch_unwind(AssertUnwindSafe(|| drop(look(model, space))));
    let said = looked.expect_err("it found something");
    let said = said.downcast_ref::<String>().unwrap();
    assert_eq!(*said, NoSuchSpace(space).to_string());
}

fn names_nothing(m: &mut Machine, space: SpaceId) {
    let model = &mut m.model;
    let page = bytes(0, 0x1000);
    let none = NoSuchSpace(space);
    let no_state = Err(StateError::NoSuchSpace(none));
    assert_eq!(model.accept(space, page), no_state);
    assert_eq!(model.give_back(space, page), no_state);
    let shared = model.set_page_state(space, page, PageState::Shared);
    assert_eq!(shared, no_state);
    let log = Log::default();
    let listener = Recorder::new("l", &log);
    let refused = model.add_listener(space, 0, listener.clone()).unwrap_err();
    assert!(matches!(refused, AddListenerError::NoSuchSpace(n) if n == none));
    let refused = model.remove_listener(space, &listener);
    assert!(matches!(refused, Err(RemoveListenerError::NoSuchSpace(n)) if n == none));
    let refused = model.remove_space(space);
    assert!(matches!(refused, Err(RemoveSpaceError::NoSuchSpace(n)) if n == none));
    panics(model, space, |m, s| m.view(s));
    panics(model, space, |m, s| m.reader(s));
    panics(model, space, |m, s| m.ioeventfds(s));
    panics(model, space, |m, s| m.coalesced(s));
    panics(model, space, |m, s| m.accepted(s).is_empty());
    panics(model, space, |m, s| m.private(s).is_empty());
    panics(model, space, |m, s| m.revoke(s, bytes(0, 1)));
    assert!(model.spaces().all(|(id, _, _)| id != space));
}

#[test]
fn a_space_of_another_model_is_none() {
    let [mut a, b] = twins();
    assert_ne!(a.space, b.space);
    names_nothing(&mut a, b.space);
    assert!(a.model.accepted(a.space).is_empty());
    assert!(b.model.accepted(b.space).is_empty());
}

#[test]
fn a_space_that_was_removed_is_none() {
    let [mut a, _] = twins();
    let (root, removed) = (a.root, a.space);
    a.model.remove_space(removed).unwrap();
    names_nothing(&mut a, removed);
    a.space = a.model.add_space("again", root).unwrap();
    names_nothing(&mut a, removed);
}

#[test]
fn a_region_of_another_model_is_none() {
    let [mut a, b] = twins();
    let (root, foreign) = (a.root, b.root);
    assert_ne!(root, foreign);
    let none = || TreeError::NoSuchRegion(foreign);
    assert_eq!(a.model.tree().region(foreign).unwrap_err(), none());
    assert!(a.model.tree().walk(foreign).is_empty());
    let before = a.everything(&[]);
    let mut t = a.model.transaction();
    let own = t.add(Region::mmio("own", 1)).unwrap();
    assert_eq!(t.place(own, foreign, 0, 0), Err(none()));
    assert_eq!(t.place(foreign, root, 0, 0), Err(none()));
    assert_eq!(t.move_to(foreign, 0), Err(none()));
    assert_eq!(t.unplace(foreign), Err(none()));
    assert_eq!(t.set_enabled(foreign, false), Err(none()));
    assert_eq!(t.remove(foreign).unwrap_err(), none());
    assert_eq!(t.add(Region::alias("alias", foreign, 0, 1)), Err(none()));
    t.remove(own).unwrap();
    t.commit().unwrap();
    assert_eq!(a.everything(&[]), before);
    let refused = a.model.add_space("foreign", foreign);
    assert!(matches!(refused, Err(AddSpaceError::Tree(e)) if e == none()));
    // The message is about the region, not about how models are distinguished.
    let text = none().to_string();
    assert_eq!(text, "region 0.0 is not part of this model");
    assert_eq!(
        NoSuchSpace(b.space).to_string(),
        "space 0 is not part of this model"
    );
}

#[test]
fn no_two_of_many_models_have_an_id_in_common() {
    let models: Vec<Machine> = (0..300).map(|_| Machine::new()).collect();
    let mut ids: Vec<_> = models.iter().map(|m| (m.space, m.root)).collect();
    for (n, m) in models.iter().enumerate() {
        let others = models.iter().skip(n + 1);
        let mut known = others.filter(|other| other.model.tree().region(m.root).is_ok());
        assert!(known.next().is_none());
    }
    ids.sort_unstable();
    ids.dedup_by_key(|(space, _)| *space);
    assert_eq!(ids.len(), models.len());
}

#[test]
fn no_id_becomes_another_models_however_often_its_place_is_used_again() {
    let mut a = Machine::new();
    let others: Vec<Machine> = (0..8)
        .map(|_| {
            let mut m = Machine::new();
            m.add(Region::mmio("x", 1));
            m
        })
        .collect();
    let mut t = a.model.transaction();
    for _ in 0..70_000 {
        let id = t.add(Region::mmio("x", 1)).unwrap();
        t.remove(id).unwrap();
        let mut trees = others.iter().map(|m| m.model.tree());
        assert!(trees.all(|tree| tree.region(id).is_err()), "{id:?}");
    }
}

#[test]
fn no_id_comes_twice_however_often_its_place_is_used_again() {
    let mut m = Machine::new();
    let kept: RegionId = m.add(Region::mmio("kept", 1));
    let mut t = m.model.transaction();
    let mut ids: Vec<RegionId> = (0..140_000)
        .map(|_| {
            let id = t.add(Region::mmio("x", 1)).unwrap();
            t.remove(id).unwrap();
            id
        })
        .collect();
    t.commit().unwrap();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(!ids.contains(&kept));
    assert_eq!(m.model.tree().region(kept).unwrap().name(), "kept");
}

#[test]
fn a_region_whose_place_has_no_more_ids_comes_back_when_its_removal_is_undone() {
    let mut m = Machine::new();
    let mut t = m.model.transaction();
    let removed = t.add(Region::mmio("removed", 1)).unwrap();
    let mut last = t.add(Region::mmio("last", 1)).unwrap();
    for _ in 1..1 << 16 {
        t.remove(last).unwrap();
        last = t.add(Region::mmio("last", 1)).unwrap();
    }
    t.remove(removed).unwrap();
    t.commit().unwrap();
    assert_eq!(m.model.validate(), Ok(()));
    let mut t = m.model.transaction();
    t.remove(last).unwrap();
    drop(t);
    assert_eq!(m.model.tree().region(last).unwrap().name(), "last");
    assert_eq!(m.model.validate(), Ok(()));
    // The place of the other one is free nevertheless.
    let next = m.add(Region::mmio("next", 1));
    assert_eq!(
        format!("{next:?}"),
        format!("{removed:?}").replace(".0", ".1")
    );
    m.change(|t| t.remove(last));
    let mut t = m.model.transaction();
    t.remove(next).unwrap();
    drop(t);
    assert_eq!(m.model.validate(), Ok(()));
}

#[test]
fn a_removed_region_is_returned_with_its_handle() {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let device = Region::mmio("device", 8).with_handle(String::from("driver"));
    let id = t.add(device).unwrap();
    let region = t.remove(id).unwrap();
    t.commit().unwrap();
    // No other owner is left.
    let region = Arc::try_unwrap(region).unwrap();
    assert_eq!(region.handle(), "driver");
}
