// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which accepted pages are revoked when a device stops decoding: those that show it.

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use vmm::backend::sim::Sim;
use vmm::machine::Machine;
use vmm::run::Run;

/// Runs steps, and returns the accepted ranges.
fn accepted(text: &str) -> Vec<(u64, u64)> {
    let machine = Machine::from_text("m.toml", text).unwrap();
    let sim = Sim::new(&machine, KernelVersion::V7_3, AbiProfile::FD_OFFSET_BIT_4);
    let mut run = Run::new(&machine, &sim).unwrap();
    for (n, step) in machine.steps.iter().enumerate() {
        let report = run.step(&machine, n + 1, step);
        assert!(report.ok(), "{}", report.text());
    }
    let accepted = run.board.model.accepted(run.board.space).iter();
    accepted
        .map(|range| (range.start(), range.last()))
        .collect()
}

#[test]
fn a_bar_that_only_an_alias_shows_is_revoked_there_and_nothing_else() {
    let machine = |on: &str| {
        format!(
            r#"
            region = [
                {{ name = "b", kind = "private-mmio", at = 0, size = "64K" }},
                {{ name = "a", kind = "bar", size = "64K", private = [{{ at = 0, size = "64K" }}] }},
                {{ name = "w", kind = "alias", target = "a", at = "4G", size = "64K" }},
            ]
            step = [
                {{ do = "accept", at = 0, size = "64K" }},
                {{ do = "accept", at = "4G", size = "64K" }},
                {{ do = "decode", region = "a", on = {on} }},
            ]
            "#
        )
    };
    let (low, high) = ((0, 0xffff), (1 << 32, (1 << 32) + 0xffff));
    assert_eq!(accepted(&machine("true")), [low, high]);
    assert_eq!(accepted(&machine("false")), [low]);
}

#[test]
fn pages_of_a_region_over_the_bar_stay_accepted() {
    let text = r#"
        region = [
            { name = "a", kind = "bar", at = 0x10_0000, size = "64K", private = [{ at = 0, size = "64K" }] },
            { name = "b", kind = "private-mmio", at = 0x10_8000, size = "4K", priority = 1 },
        ]
        step = [
            { do = "accept", at = 0x10_0000, size = "64K" },
            { do = "decode", region = "a", on = false },
        ]
    "#;
    assert_eq!(accepted(text), [(0x10_8000, 0x10_8fff)]);
}
