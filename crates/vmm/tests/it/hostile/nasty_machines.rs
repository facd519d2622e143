// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Machines that can be read and are nasty: they end in an error or run.

use std::fmt::Write;

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use memory_map::text;
use vmm::backend::sim::Sim;
use vmm::machine::Machine;
use vmm::report::StepReport;
use vmm::run::Run;

/// Runs a machine; the error in words if it cannot begin.
fn run(text: &str) -> Result<Vec<StepReport>, String> {
    let machine = Machine::from_text("nasty.toml", text).unwrap();
    let sim = Sim::new(&machine, KernelVersion::V7_3, AbiProfile::FD_OFFSET_BIT_4);
    let mut run = Run::new(&machine, &sim).map_err(|error| vmm::with_causes(&error))?;
    let steps = machine.steps.iter().enumerate();
    let steps = steps
        .map(|(n, step)| run.step(&machine, n + 1, step))
        .collect();
    // What it came to can be shown.
    let map = run.board.map(&machine.name);
    assert!(text::tree(&map).len() + text::flat(&map).len() + text::slots(&map).len() > 0);
    Ok(steps)
}

/// Runs a machine of which every step must be as expected.
fn all_ok(text: &str) {
    for step in run(text).unwrap() {
        assert!(step.ok(), "{}", step.text());
    }
}

/// `[[region]]`s and `[[step]]`s, each on a line of its own.
fn machine(regions: &[&str], steps: &[&str]) -> String {
    let list = |name: &str, items: &[&str]| format!("{name} = [{{{}}}]\n", items.join("},\n{"));
    match steps {
        [] => list("region", regions),
        _ => list("region", regions) + &list("step", steps),
    }
}

#[test]
fn a_machine_of_nothing_runs() {
    assert_eq!(run(""), Ok(vec![]));
    all_ok(r#"step = [{ do = "read", at = 0, expect = 0xffff_ffff, how = "mmio" }]"#);
}

#[test]
fn a_region_at_the_end_of_all_addresses_shows_what_fits() {
    for kind in [
        r#""mmio", device = "registers""#,
        r#""container""#,
        r#""reserved""#,
    ] {
        let region =
            format!(r#"name = "r", kind = {kind}, at = 0xffff_ffff_ffff_f000, size = "16E""#);
        all_ok(&machine(&[&region], &[]));
    }
}

#[test]
fn memory_beyond_the_processors_addresses_is_refused_before_kvm_is_asked() {
    let ram = r#"name = "r", kind = "ram", at = 0x4000_0000_0000, size = "4K""#;
    let error = run(&machine(&[ram], &[])).unwrap_err();
    assert!(
        error.starts_with("the memslots cannot be set up: "),
        "{error}"
    );
    assert!(error.contains("have at most 46 bits"), "{error}");
    // KVM does not take the last page of 64 bits.
    let ram = r#"name = "r", kind = "ram", at = 0xffff_ffff_ffff_f000, size = "4K""#;
    assert!(run(&machine(&[ram], &[])).is_err());
}

/// How many bytes the guest's code takes depends on the architecture and its pages.
fn has_no_room(error: &str) {
    let size = error
        .strip_prefix("no 0x")
        .and_then(|rest| rest.split_once("000 "));
    let rest = size.map(|(_, rest)| rest);
    let expected = "free bytes are left for the guest's code";
    assert_eq!(rest, Some(expected), "{error}");
}

#[test]
fn a_trapped_region_of_all_addresses_leaves_no_room_for_the_guests_code() {
    let all = r#"name = "r", kind = "mmio", device = "counter", at = 0, size = "16E""#;
    let error = run(&machine(&[all], &[])).unwrap_err();
    has_no_room(&error);
}

#[test]
fn no_step_of_a_script_reaches_the_guests_code() {
    // Where the code would be if nothing went there: overwritten, it may spin.
    let ram = r#"name = "r", kind = "ram", at = 0, size = "4K""#;
    let read = r#"do = "read", at = 0, expect = 0, how = "direct""#;
    let steps = [
        r#"do = "host-write", at = 0x203ffe, value = 0xfeeb_feeb, fails = "no-host-address""#,
        r#"do = "host-read", at = 0x200000, fails = "no-host-address""#,
        r#"do = "read", at = 0x40_0000, expect = 0xffff_ffff, how = "mmio""#,
        read,
    ];
    all_ok(&machine(&[ram], &steps));
}

#[test]
fn the_largest_memory_there_can_be_is_direct_up_to_its_end() {
    let ram = r#"name = "r", kind = "ram", at = 0, size = "4T""#;
    let read = r#"do = "read", at = 0x3ff_ffff_fff8, size = 8, expect = 0, how = "direct""#;
    all_ok(&machine(&[ram], &[read]));
}

#[test]
fn an_access_out_of_the_processors_reach_is_an_error_before_the_first_step() {
    let reach = "is out of reach: guest-physical addresses have 46 bits here";
    for (at, size) in [("0x4000_0000_0000", 1), ("0x3fff_ffff_fffc", 8)] {
        let read = format!(r#"do = "write", at = {at}, size = {size}, value = 0, how = "mmio""#);
        let error = run(&machine(&[], &[&read]).replace("[{}]", "[]")).unwrap_err();
        let at = at.replace('_', "");
        assert_eq!(error, format!("the access to {at} {reach}"));
    }
    let last = r#"do = "read", at = 0x3fff_ffff_fff8, size = 8, expect = "0xffff_ffff_ffff_ffff", how = "mmio""#;
    all_ok(&machine(&[], &[last]).replace("[{}]", "[]"));
}

#[test]
fn a_region_that_shows_itself_is_refused() {
    let container = r#"name = "c", kind = "container", at = 0, size = "64K""#;
    let inside = r#"name = "a", kind = "alias", target = "c", in = "c", at = 0, size = "4K""#;
    let error = run(&machine(&[container, inside], &[])).unwrap_err();
    assert_eq!(error, "'a' in 'c' would make it contain itself");
    let all = r#"name = "a", kind = "alias", target = "system", at = 0, size = "4K""#;
    let error = run(&machine(&[all], &[])).unwrap_err();
    assert_eq!(error, "'a' in 'system' would make it contain itself");
}

#[test]
fn aliases_of_aliases_that_double_30_times_are_too_complex() {
    let mut text = String::from("[[region]]\nname = \"c0\"\nkind = \"reserved\"\nsize = \"4K\"\n");
    for level in 1..=30 {
        let below = level - 1;
        let at = if level == 30 { "at = 0\n" } else { "" };
        write!(
            text,
            "[[region]]\nname = \"c{level}\"\nkind = \"container\"\nsize = \"4K\"\n{at}\
             [[region]]\nname = \"a{level}-{{}}\"\nkind = \"alias\"\ntarget = \"c{below}\"\n\
             in = \"c{level}\"\nat = 0\nsize = \"4K\"\nrepeat = {{ count = 2 }}\n"
        )
        .unwrap();
    }
    let error = Machine::from_text("nasty.toml", &text).unwrap_err();
    let shown = "with all that aliases show there are more than 100000 regions";
    let said = format!("nasty.toml:361: region 'a30-0': field 'target': {shown}");
    assert_eq!(error.to_string(), said);
}

#[test]
fn overlapping_bars_move_over_each_other_and_back() {
    let bars = r#"name = "bar{}", kind = "device-ram", at = 0x1_0000, size = "64K", init = [{ at = 0x8000, value = 7 }], repeat = { count = 8, stride = "4K" }"#;
    let same = r#"do = "move", region = "bar{}", to = 0x1_0000, repeat = { count = 8 }"#;
    let away =
        r#"do = "move", region = "bar{}", to = 0x10_0000, repeat = { count = 8, stride = "32K" }"#;
    let seen = r#"do = "read", at = 0x10_8000, expect = 0, how = "direct""#;
    let last = r#"do = "read", at = 0x14_0000, expect = 7, how = "direct""#;
    all_ok(&machine(
        &[bars],
        &[same, away, seen, last, same, away, last],
    ));
}

#[test]
fn a_region_that_moves_to_the_top_of_the_address_space_is_gone_or_refused() {
    let trapped = r#"name = "t", kind = "mmio", device = "counter", at = 0, size = "64K""#;
    let ram = r#"name = "r", kind = "ram", at = 0x10_0000, size = "64K""#;
    let top = |region: &str, more: &str| {
        format!(r#"do = "move", region = "{region}", to = 0xffff_ffff_ffff_f000{more}"#)
    };
    let gone = r#"do = "read", at = 0, expect = 0xffff_ffff, how = "mmio""#;
    let there = r#"do = "read", at = 0x10_0000, expect = 0, how = "direct""#;
    let steps = [
        &top("t", ""),
        gone,
        &top("r", r#", fails = "out-of-reach""#),
        there,
    ];
    all_ok(&machine(&[trapped, ram], &steps));
}

#[test]
fn a_region_that_moves_over_the_guests_code_does_not_hide_it() {
    // The code lies behind everything: at 2 MiB here.
    let ram = r#"name = "r", kind = "ram", at = 0, size = "2M", priority = 2147483646"#;
    let move_over = r#"do = "move", region = "r", to = 0x10_0000"#;
    let read = r#"do = "read", at = 0x1f_f000, expect = 0, how = "direct""#;
    let text = machine(&[ram], &[move_over, read]);
    all_ok(&text);
    let parsed = Machine::from_text("nasty.toml", &text).unwrap();
    let sim = Sim::new(&parsed, KernelVersion::V7_3, AbiProfile::None);
    let mut run = Run::new(&parsed, &sim).unwrap();
    assert!(run.step(&parsed, 1, &parsed.steps[0]).ok());
    let view = run.board.model.view(run.board.space);
    let code = run.stub.page_tables;
    assert_eq!(view.find(code).unwrap().region().name(), "guest code");
}

#[test]
fn counters_and_offsets_at_the_end_of_64_bits_wrap() {
    let counter = r#"name = "c", kind = "mmio", device = "counter", at = 0, size = "4K""#;
    let registers = r#"name = "r", kind = "mmio", device = "registers", size = "16E""#;
    let alias = r#"name = "a", kind = "alias", target = "r", offset = 0xffff_ffff_ffff_f000, at = 0x1000, size = "4K""#;
    let steps = [
        r#"do = "write", at = 0, size = 8, value = 0xffff_ffff_ffff_ffff, how = "mmio""#,
        r#"do = "read", at = 0, expect = 0, how = "mmio""#,
        r#"do = "write", at = 0x1fff, size = 1, value = 5, how = "mmio""#,
        r#"do = "read", at = 0x1fff, size = 1, expect = 5, how = "mmio""#,
        r#"do = "read", at = 0x1ff8, size = 8, expect = 0x0500_0000_0000_0000, how = "mmio""#,
    ];
    all_ok(&machine(&[counter, registers, alias], &steps));
}

#[test]
fn accesses_that_cannot_complete_can_be_expected() {
    let ram = r#"name = "r", kind = "ram", backing = "private", at = 0, size = "64K""#;
    let steps = [
        r#"do = "convert", at = 0, size = "4K", state = "private""#,
        r#"do = "disable", region = "r""#,
        r#"do = "write", at = 0, value = 7, how = "memory-fault""#,
        r#"do = "read", at = 0, how = "memory-fault""#,
    ];
    all_ok(&machine(&[ram], &steps));
}

#[test]
fn private_mmio_that_the_guest_makes_shared_is_given_back() {
    let private = r#"name = "p", kind = "private-mmio", at = 0, size = "64K""#;
    let steps = [
        r#"do = "accept", at = 0, size = "4K""#,
        r#"do = "accept", at = 1, size = "4K", fails = "unaligned""#,
        r#"do = "accept", at = "60K", size = "8K", fails = "wrong-kind""#,
        r#"do = "convert", at = "4K", size = "4K", state = "private""#,
        r#"do = "give-back", at = 0, size = "4K""#,
        r#"do = "move", region = "p", to = "64K", fails = "accepted""#,
        r#"do = "convert", at = 0, size = "64K", state = "shared""#,
        r#"do = "move", region = "p", to = "64K""#,
    ];
    all_ok(&machine(&[private], &steps));
}

#[test]
fn as_many_regions_as_there_may_be_run() {
    let trapped = r#"name = "t{}", kind = "mmio", device = "counter", at = 0, size = 8, repeat = { count = 19999, stride = "4K" }"#;
    let read = r#"do = "read", at = 0, expect = 1, how = "mmio", repeat = { count = 19999, stride = "4K" }"#;
    all_ok(&machine(&[trapped], &[read]));
}

#[test]
fn regions_and_accesses_that_take_every_place_end_in_no_room() {
    // Trapped regions fill all that the processor reaches but gaps too small.
    let wall = r#"name = "w{}", kind = "reserved", at = 0, size = 0x1_ffff_f000, repeat = { count = 8192, stride = "8G" }"#;
    let error = run(&machine(&[wall], &[])).unwrap_err();
    has_no_room(&error);
}
