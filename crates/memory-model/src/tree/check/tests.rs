// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `check` finds each kind of damage.

use alloc::sync::Arc;

use super::*;
use crate::attachments::{EventFd, IoEventFd, Trigger};
use crate::ids::ModelId;
use crate::model::MemoryModel;
use crate::region::Region;
use crate::tree::node::Place;

/// A container with a device and an alias of it; and nothing where a region
/// was. The device has an ioeventfd and a coalesced range.
struct Machine {
    model: MemoryModel,
    container: RegionId,
    device: RegionId,
    alias: RegionId,
    removed: RegionId,
}

fn machine() -> Machine {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let container = t.add(Region::container("container", 1 << 64)).unwrap();
    let device = t.add(Region::mmio("device", 0x1000)).unwrap();
    let alias = t.add(Region::alias("alias", device, 0, 0x800)).unwrap();
    let removed = t.add(Region::mmio("removed", 1)).unwrap();
    t.place(device, container, 0x1000, 0).unwrap();
    t.place(alias, container, 0x4000, 0).unwrap();
    t.attach_ioeventfd(device, event(0x10)).unwrap();
    t.attach_coalesced(device, AddrRange::new(0x20, 8).unwrap())
        .unwrap();
    t.commit().unwrap();
    let mut t = model.transaction();
    t.remove(removed).unwrap();
    t.commit().unwrap();
    Machine {
        model,
        container,
        device,
        alias,
        removed,
    }
}

fn event(at: u64) -> IoEventFd {
    IoEventFd {
        at,
        trigger: Trigger::U32(None),
        event: EventFd::new(3, Arc::new(())),
    }
}

/// The error for a tree after some damage.
fn error_after(damage: impl FnOnce(&mut Tree<()>, &Machine)) -> Invalid {
    let mut m = machine();
    assert_eq!(m.model.validate(), Ok(()));
    let mut tree = core::mem::replace(&mut m.model.tree, Tree::new(crate::ids::ModelId::next()));
    damage(&mut tree, &m);
    m.model.tree = tree;
    m.model.validate().unwrap_err()
}

#[track_caller]
fn region(error: Invalid, named: &str, says: &str) {
    match error {
        Invalid::Region { name, what, .. } if name == named && what.contains(says) => {}
        other => panic!("{other}"),
    }
}

#[track_caller]
fn entry(error: Invalid, of: RegionId, says: &str) {
    match error {
        Invalid::Entry { index, what } if index == of.index && what.contains(says) => {}
        other => panic!("{other}"),
    }
}

#[test]
fn an_entry_that_is_taken_and_free_is_found() {
    entry(
        error_after(|tree, m| tree.free.push(m.device.index)),
        m_index(|m| m.device),
        "a region has it",
    );
    let twice = |tree: &mut Tree<()>, m: &Machine| {
        tree.free.insert(0, 77);
        tree.free.push(m.removed.index);
    };
    entry(error_after(twice), m_index(|m| m.removed), "free twice");
    entry(
        error_after(|tree, _| tree.free.clear()),
        m_index(|m| m.removed),
        "not free",
    );
    let error = error_after(|tree, _| tree.free.push(77));
    assert!(matches!(error, Invalid::Entry { index: 77, .. }), "{error}");
}

#[test]
fn an_entry_that_is_free_although_its_generations_have_run_out_is_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        let entry = &mut tree.entries[m.removed.index as usize];
        entry.next_generation = (entry.next_generation | RegionId::GENERATIONS).wrapping_add(1);
    };
    entry(error_after(damage), m_index(|m| m.removed), "run out");
}

#[test]
fn entries_whose_generations_run_out_are_right_in_the_first_model_and_the_last() {
    for model in [0, 1, u16::MAX] {
        let mut tree = Tree::<()>::new(ModelId(model));
        let first = tree.add(Region::mmio("x", 1)).unwrap();
        drop(tree.remove(first).unwrap());
        // Two are left.
        tree.entries[0].next_generation = first.generation + RegionId::GENERATIONS - 1;
        for _ in 0..2 {
            let id = tree.add(Region::mmio("x", 1)).unwrap();
            assert_eq!(id.index, 0);
            assert_eq!(tree.check(), Ok(()));
            drop(tree.remove(id).unwrap());
            assert_eq!(tree.check(), Ok(()));
        }
        // The entry stays empty: its next id would be another model's.
        let id = tree.add(Region::mmio("x", 1)).unwrap();
        assert_eq!(id.index, 1);
        assert_eq!(tree.check(), Ok(()));
    }
}

/// The same ids come out every time.
fn m_index(of: impl Fn(&Machine) -> RegionId) -> RegionId {
    of(&machine())
}

#[test]
fn a_generation_that_could_be_given_out_again_is_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        tree.entries[m.device.index as usize].next_generation = m.device.generation;
    };
    entry(error_after(damage), m_index(|m| m.device), "still to come");
}

#[test]
fn a_region_that_its_parent_does_not_find_is_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        let as_child = tree.node(m.device).unwrap().as_child(m.device).unwrap();
        let parent = tree.node_mut(m.container).unwrap();
        parent.children.remove(&as_child);
    };
    region(error_after(damage), "device", "does not find it");
}

#[test]
fn a_region_that_its_parent_has_twice_is_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        let as_child = tree.node(m.device).unwrap().as_child(m.device).unwrap();
        let parent = tree.node_mut(m.container).unwrap();
        parent.children.insert(as_child);
    };
    // The container comes first.
    region(error_after(damage), "container", "one placing");
}

#[test]
fn a_child_that_lies_elsewhere_or_nowhere_is_found() {
    let moved = |tree: &mut Tree<()>, m: &Machine| {
        let place = tree.node_mut(m.device).unwrap().place.as_mut().unwrap();
        place.address += 0x10;
    };
    region(error_after(moved), "container", "another place");
    let unplaced = |tree: &mut Tree<()>, m: &Machine| {
        tree.node_mut(m.device).unwrap().place = None;
    };
    region(error_after(unplaced), "container", "lies elsewhere");
    let removed = |tree: &mut Tree<()>, m: &Machine| {
        tree.entries[m.alias.index as usize].node = None;
        tree.free.push(m.alias.index);
    };
    region(error_after(removed), "container", "no region");
}

#[test]
fn a_parent_that_there_is_not_is_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        let container = tree.node_mut(m.container).unwrap();
        let place = Place {
            parent: m.removed,
            address: 0,
            priority: 0,
        };
        (container.place, container.placing) = (Some(place), 1);
    };
    region(error_after(damage), "container", "that there is not");
}

#[test]
fn a_placing_that_is_still_to_come_is_found() {
    let damage = |tree: &mut Tree<()>, _: &Machine| tree.placings = 1;
    region(error_after(damage), "alias", "still to come");
}

#[test]
fn an_alias_and_its_target_that_do_not_agree_are_found() {
    let forgotten = |tree: &mut Tree<()>, m: &Machine| {
        tree.node_mut(m.device).unwrap().aliases.clear();
    };
    region(error_after(forgotten), "alias", "does not know it");
    let made_up = |tree: &mut Tree<()>, m: &Machine| {
        let device = tree.node_mut(m.device).unwrap();
        device.aliases.insert(m.container);
    };
    region(error_after(made_up), "device", "does not show it");
}

#[test]
fn a_region_that_contains_itself_is_found() {
    // The alias of the device lies in the device.
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        let (mut place, placing) = tree.unplace(m.alias).unwrap();
        place.parent = m.device;
        tree.put(m.alias, place, placing);
    };
    let error = error_after(damage);
    let Invalid::Region { what, .. } = error else {
        panic!("{error}");
    };
    assert!(what.contains("contains itself"), "{what}");
}

#[test]
fn offsets_of_another_size_are_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        let container = tree.node_mut(m.container).unwrap();
        container.offsets = AddrRange::new(0, 0x5000).unwrap();
    };
    region(error_after(damage), "container", "not those of its size");
}

#[test]
fn logging_of_what_cannot_be_logged_is_found() {
    let damage = |tree: &mut Tree<()>, m: &Machine| {
        tree.node_mut(m.device).unwrap().logging = DirtyClients::VGA;
    };
    region(error_after(damage), "device", "cannot be");
}

#[test]
fn attachments_that_are_not_counted_are_found() {
    let error = error_after(|tree, _| tree.attachments = 1);
    let expected = Invalid::AttachmentCount {
        counted: 2,
        recorded: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn attachments_that_cannot_be_are_found() {
    let elsewhere = |tree: &mut Tree<()>, m: &Machine| {
        tree.set_coalesced(m.alias, AddrRange::new(0, 1).unwrap(), true);
    };
    region(error_after(elsewhere), "alias", "does not trap");
    let outside = |tree: &mut Tree<()>, m: &Machine| {
        tree.set_coalesced(m.device, AddrRange::new(0xfff, 2).unwrap(), true);
    };
    region(error_after(outside), "device", "range is not inside");
    let overlapping = |tree: &mut Tree<()>, m: &Machine| {
        tree.set_coalesced(m.device, AddrRange::new(0x21, 1).unwrap(), true);
    };
    region(error_after(overlapping), "device", "overlap");
    let outside = |tree: &mut Tree<()>, m: &Machine| {
        let event = event(0xffe);
        tree.set_ioeventfd(m.device, event.key(), Some(event.event));
    };
    region(error_after(outside), "device", "ioeventfd is not inside");
    let twice = |tree: &mut Tree<()>, m: &Machine| {
        let key = (0x10, Trigger::AnyWrite);
        tree.set_ioeventfd(m.device, key, Some(event(0).event));
    };
    region(error_after(twice), "device", "two of its ioeventfds");
}
