// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `repeat` makes of a region or a step.

use vmm::machine::{AccessKind, ActionKind, Kind, Machine, Step};

fn machine(text: &str) -> Machine {
    Machine::from_text("m.toml", text).unwrap()
}

fn mistake(text: &str) -> String {
    Machine::from_text("m.toml", text).unwrap_err().to_string()
}

#[test]
fn a_repeated_region_has_its_number_in_its_name_and_goes_on_by_its_stride() {
    let machine = machine(
        r#"
        [[region]]
        name = "dimm{}.of-{}"
        kind = "ram"
        at = 0x1000
        size = "4K"
        init = [{ at = 8, value = 40, size = 1 }]
        repeat = { count = 3, stride = "1M", add = 2 }
        "#,
    );
    let regions = &machine.regions[1..];
    let names: Vec<_> = regions.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["dimm0.of-0", "dimm1.of-1", "dimm2.of-2"]);
    let places: Vec<_> = regions.iter().map(|r| r.place.unwrap().at).collect();
    assert_eq!(places, [0x1000, 0x10_1000, 0x20_1000]);
    // Initial values go on too, their offsets stay.
    let init: Vec<_> = regions
        .iter()
        .map(|r| (r.init[0].at, r.init[0].value))
        .collect();
    assert_eq!(init, [(8, 40), (8, 42), (8, 44)]);
}

#[test]
fn repeated_names_may_stand_for_parents_and_targets() {
    let machine = machine(
        r#"
        region = [
            { name = "box{}", kind = "container", at = 0, size = "64K", repeat = { count = 2, stride = "64K" } },
            { name = "in{}", kind = "container", in = "box{}", at = 0, size = "4K", repeat = { count = 2 } },
            { name = "at{}", kind = "alias", target = "box{}", offset = 0, size = "4K", repeat = { count = 2, stride = "4K" } },
        ]
        "#,
    );
    let parents: Vec<_> = machine.regions[3..5]
        .iter()
        .map(|r| r.place.unwrap().parent)
        .collect();
    assert_eq!(parents, [1, 2]);
    let alias = |target, offset| Kind::Alias { target, offset };
    assert_eq!(machine.regions[5].kind, alias(1, 0));
    assert_eq!(machine.regions[6].kind, alias(2, 0x1000));
}

#[test]
fn a_repeated_step_goes_on_in_address_value_and_region() {
    let machine = machine(
        r#"
        region = [{ name = "r{}", kind = "container", at = 0, size = 1, repeat = { count = 2 } }]
        step = [
            { do = "write", at = 0x10, value = 5, how = "mmio", repeat = { count = 2, stride = 4, add = 3 } },
            { do = "read", at = 0x10, expect = 5, how = "mmio", repeat = { count = 2, stride = 4, add = 3 } },
            { do = "move", region = "r{}", to = 0x100, repeat = { count = 2, stride = 0x10 } },
        ]
        "#,
    );
    let accesses: Vec<_> = machine.accesses().map(|a| (a.gpa, a.kind)).collect();
    let expected = [
        (0x10, AccessKind::Write(5)),
        (0x14, AccessKind::Write(8)),
        (0x10, AccessKind::Read(Some(5))),
        (0x14, AccessKind::Read(Some(8))),
    ];
    assert_eq!(accesses, expected);
    let moves: Vec<_> = machine.steps[4..]
        .iter()
        .map(|step| match step {
            Step::Vmm(action) => action.what.clone(),
            Step::Guest(access) => panic!("{access:?}"),
        })
        .collect();
    let to = |region, to| ActionKind::Move { region, to };
    assert_eq!(moves, [to(1, 0x100), to(2, 0x110)]);
}

#[test]
fn without_repeat_braces_are_a_name_like_any_other() {
    let text = r#"region = [{ name = "r{}", kind = "container", size = 1 }]"#;
    assert_eq!(machine(text).regions[1].name, "r{}");
}

#[test]
fn a_repetition_that_leaves_64_bits_is_told_with_its_number() {
    let text = r#"region = [{ name = "r{}", kind = "container", at = 1, size = 1, repeat = { count = 9, stride = "8E" } }]"#;
    let said = "m.toml:1: region 'r2': field 'at': is not below 2^64";
    assert_eq!(mistake(text), said);
    let text = r#"step = [{ do = "read", at = 0, size = 1, expect = 254, how = "mmio", repeat = { count = 3, add = 1 } }]"#;
    let said = "m.toml:1: step 1 (read): field 'expect': 0x100 is larger than 1 bytes";
    assert_eq!(mistake(text), said);
}

#[test]
fn there_is_an_end_to_regions_and_to_steps() {
    let text =
        r#"region = [{ name = "r{}", kind = "container", size = 1, repeat = { count = 20000 } }]"#;
    let said = "m.toml:1: region 'r19999': field 'name': there are more than 20000 regions";
    assert_eq!(mistake(text), said);
    let step = r#"{ do = "read", at = 0, expect = 0, how = "mmio", repeat = { count = 50001 } }"#;
    let said = "m.toml:1: step 2 (read): field 'do': there are more than 100000 steps";
    assert_eq!(mistake(&format!("step = [{step}, {step}]")), said);
}

#[test]
fn a_repetition_without_a_count_is_told() {
    let text =
        "[[region]]\nname = \"r{}\"\nkind = \"container\"\nsize = 1\nrepeat = { stride = 1 }\n";
    assert_eq!(
        mistake(text),
        "m.toml:5: field 'repeat': missing field `count`"
    );
}
