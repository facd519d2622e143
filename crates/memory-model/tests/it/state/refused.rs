// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data that describes no model is refused, with the place of the fault.

use crate::common;

use std::fmt::Display;

use common::{Machine, bytes, guest_memfd_ram, host, memory, private_mmio};
use memory_model::state::{ModelState, RegionState, Restore};
use memory_model::{Backing, GuestMemfdSides, PageState, Region};
use serde_json::{Value, json};

use super::round_trip::{Anything, backing, save};

/// A small model as data: number 0 is the root, 1 RAM, 2 a BAR, 3 an alias of the RAM.
fn saved() -> Value {
    let mut m = Machine::new();
    let ram = m.put(guest_memfd_ram("ram", 0x2000, GuestMemfdSides::Both), 0);
    m.put(private_mmio("bar", 0x1000), 0x8000);
    m.put(Region::alias("alias", ram, 0, 0x1000), 0x4000);
    let (model, space) = (&mut m.model, m.space);
    let page = bytes(0x1000, 0x1000);
    model
        .set_page_state(space, page, PageState::Private)
        .unwrap();
    model.accept(space, bytes(0x8000, 0x1000)).unwrap();
    serde_json::from_str(&save(model)).unwrap()
}

fn refused(data: Value, because: &str) {
    let error = match serde_json::from_value::<ModelState<String>>(data.clone()) {
        Err(error) => error.to_string(),
        Ok(state) => match state.restore(&mut Anything) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("restored: {data}"),
        },
    };
    assert!(error.contains(because), "{error}");
}

/// Changes the value at a path, and expects a refusal.
fn with(path: &str, value: Value, because: &str) {
    let mut data = saved();
    *data.pointer_mut(path).expect(path) = value;
    refused(data, because);
}

#[test]
fn what_these_tests_change_is_restored_unchanged() {
    let state: ModelState<String> = serde_json::from_value(saved()).unwrap();
    assert!(state.restore(&mut Anything).is_ok());
    assert_eq!(state.regions()[3].name(), "alias");
}

#[test]
fn another_version_is_refused_before_anything_else() {
    let mut data = saved();
    data["version"] = json!(2);
    data["what"] = json!("unknown in version 1");
    refused(
        data,
        "version 2 of a memory model's state; this is version 1",
    );
}

#[test]
fn unknown_and_missing_fields_are_refused() {
    with(
        "/regions/1/switches",
        json!({"enabled": true}),
        "missing field",
    );
    let mut data = saved();
    data["regions"][1]["colour"] = json!("red");
    refused(data, "unknown field `colour`");
}

#[test]
fn references_to_no_region_are_refused() {
    with("/places/0/region", json!(9), "a place refers to region 9");
    with("/places/0/parent", json!(4), "a place refers to region 4");
    with(
        "/spaces/0/root",
        json!(7),
        "address space 'memory' refers to region 7",
    );
    // Its own number, and a later one: there would be a circle.
    for target in [3, 4] {
        let kind = json!({"alias": {"target": target, "offset": 0}});
        with("/regions/3/kind", kind, "alias 'alias' refers to region");
    }
}

#[test]
fn regions_that_form_no_tree_are_refused() {
    let twice = saved()["places"][0].clone();
    with("/places/1", twice, "'ram' is placed already");
    with("/places/0/parent", json!(1), "would make it contain itself");
}

#[test]
fn sizes_and_page_states_that_do_not_fit_are_refused() {
    with("/regions/3/last", json!(-1), "integer `-1`");
    with("/spaces/0/private/0/start", json!(0x1800), "whole pages");
    let accepted = json!([{"start": 0, "last": 0xfff}]);
    with("/spaces/0/accepted", accepted, "address space 'memory'");
    with(
        "/global_logging",
        json!(0x81),
        "0x80 are not clients of dirty logs",
    );
}

#[test]
fn an_impossible_trigger_is_refused() {
    let mut m = Machine::new();
    let mmio = m.put(Region::mmio("mmio", 0x1000), 0);
    m.change(|t| t.attach_ioeventfd(mmio, common::bell(0, 1)));
    let text = save(&mut m.model);
    for (size, value) in [(3, json!(null)), (1, json!(256)), (0, json!(1))] {
        let mut data: Value = serde_json::from_str(&text).unwrap();
        let event = &mut data["regions"][1]["ioeventfds"][0];
        event["size"] = json!(size);
        event["value"] = value;
        refused(data, "triggers the ioeventfd at 0x0");
    }
}

/// Supplies the backing of one region by a function.
struct Other<F>(&'static str, F);

impl<F: Fn() -> Result<Backing, &'static str>> Restore<String, ()> for Other<F> {
    type Error = &'static str;

    fn region(&mut self, saved: &RegionState<String>) -> Result<((), Backing), &'static str> {
        match saved.name() == self.0 {
            true => Ok(((), (self.1)()?)),
            false => Ok(((), backing(saved))),
        }
    }
}

#[test]
fn memory_that_does_not_fit_its_region_is_refused() {
    let state: ModelState<String> = serde_json::from_value(saved()).unwrap();
    let with = |name, supply: &dyn Fn() -> Result<Backing, &'static str>, because: &dyn Display| {
        let error = state.restore(&mut Other(name, supply)).unwrap_err();
        assert_eq!(error.to_string(), because.to_string());
    };
    with(
        "ram",
        &|| Ok(Backing::Memory(memory(0x1000))),
        &"region 'ram': it has 0x2000 bytes, and the memory 0x1000",
    );
    // Plain memory would lose what is private.
    with(
        "ram",
        &|| Ok(Backing::Memory(memory(0x2000))),
        &"region 'ram': its guest_memfd holds other pages",
    );
    // Never a host address for registers that had none.
    with(
        "bar",
        &|| Ok(Backing::DeviceRam(host(0x1000))),
        &"region 'bar': it has another kind of memory",
    );
    with(
        "alias",
        &|| Ok(Backing::Memory(memory(0x1000))),
        &"region 'alias': it has another kind of memory",
    );
    with(
        "bar",
        &|| Err("no such device"),
        &"region 'bar': no such device",
    );
}
