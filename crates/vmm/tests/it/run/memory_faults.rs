// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM makes of a guest that takes pages for what they are not.

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use vmm::backend::sim::Sim;
use vmm::machine::{How, Machine};
use vmm::report::StepReport;
use vmm::run::Run;

/// 64 KiB of RAM with a private side at 0, then as much without.
const MEMORY: &str = r#"
[[region]]
name = "p"
kind = "ram"
backing = "private"
at = 0
size = "64K"
[[region]]
name = "r"
kind = "ram"
at = "64K"
size = "64K"
"#;

/// Runs steps, each on a line.
fn run(kernel: KernelVersion, setting: &str, steps: &[&str]) -> Vec<StepReport> {
    let steps: String = steps
        .iter()
        .map(|step| format!("[[step]]\n{}\n", step.replace(", ", "\n")))
        .collect();
    let text = format!("{setting}{MEMORY}{steps}");
    let machine = Machine::from_text("m.toml", &text).unwrap();
    let sim = Sim::new(&machine, kernel, AbiProfile::None);
    let mut run = Run::new(&machine, &sim).unwrap();
    let steps = machine.steps.iter().enumerate();
    steps
        .map(|(n, step)| run.step(&machine, n + 1, step))
        .collect()
}

const CONVERT: &str = "on-memory-fault = \"convert\"\n";
const REPORT: &str = "on-memory-fault = \"report\"\n";

#[test]
fn without_the_setting_a_memory_fault_is_what_is_seen() {
    let steps = [
        r#"do = "write", at = 0, value = 1, state = "private", how = "memory-fault""#,
        r#"do = "read", at = 0, state = "shared", expect = 0, how = "direct""#,
        r#"do = "host-read", at = 0, expect = 0"#,
    ];
    for setting in ["", REPORT] {
        let seen = run(KernelVersion::V7_3, setting, &steps);
        assert!(seen.iter().all(StepReport::ok), "{seen:#?}");
        assert_eq!(
            seen[0].seen.note,
            "memory fault at 0x0, 0x1000 bytes, flags 0x8"
        );
        assert_eq!(seen[0].region, "p + 0x0 as private");
    }
}

#[test]
fn a_conversion_is_told_beside_what_the_access_came_to() {
    let steps = [
        r#"do = "write", at = 0xffc, size = 8, value = 1, state = "private", how = "direct""#,
        r#"do = "read", at = 0x1000, state = "shared", expect = 0, how = "direct""#,
        r#"do = "read", at = 0xffc, state = "private", expect = 1, how = "direct""#,
    ];
    let seen = run(KernelVersion::V7_3, CONVERT, &steps);
    assert!(seen.iter().all(StepReport::ok), "{seen:#?}");
    let notes: Vec<_> = seen.iter().map(|step| step.seen.note.as_str()).collect();
    let one = "0x1000 bytes at 0x0 became private at a memory fault";
    let two = "0x1000 bytes at 0x1000 became private at a memory fault";
    let back = "0x1000 bytes at 0x1000 became shared at a memory fault";
    assert_eq!(notes, [&format!("{one}; {two}"), back, ""]);
}

#[test]
fn what_cannot_be_converted_stays_a_memory_fault_with_the_reason() {
    let steps = [
        // The first page could, the second cannot.
        r#"do = "write", at = 0xfffc, size = 8, value = 1, state = "private", how = "memory-fault""#,
        r#"do = "read", at = 0x1_0000, expect = 0, how = "direct""#,
        r#"do = "convert", at = 0, size = "4K", state = "private""#,
        r#"do = "disable", region = "p""#,
        r#"do = "read", at = 0, how = "memory-fault""#,
        r#"do = "read", at = 0x1_0000, expect = 0, how = "direct""#,
    ];
    let seen = run(KernelVersion::V7_3, CONVERT, &steps);
    assert!(seen.iter().all(StepReport::ok), "{seen:#?}");
    // What came before the end is told, too.
    assert_eq!(
        seen[0].seen.note,
        "memory fault at 0x10000, 0x1000 bytes, flags 0x8; \
         0x1000 bytes at 0xf000 became private at a memory fault; \
         0x10000..0x11000 cannot become private: at 0x10000 is nothing with a private side"
    );
    let why = "at 0x0 is nothing with a private side";
    assert!(seen[4].seen.note.contains(why), "{}", seen[4].seen.note);
}

#[test]
fn a_vm_without_private_pages_has_no_guest_that_could_say_so() {
    let steps = [
        r#"do = "read", at = 0x1_0000, state = "private", expect = 7, how = "direct""#,
        r#"do = "write", at = 0x1_0000, state = "shared", value = 7, how = "direct""#,
        r#"do = "read", at = 0x1_0000, expect = 0, how = "direct""#,
    ];
    for setting in [CONVERT, REPORT] {
        let seen = run(KernelVersion::V6_1, setting, &steps);
        assert!(seen.iter().all(StepReport::ok), "{seen:#?}");
        for step in &seen[..2] {
            assert!(step.unsupported && step.seen.how == How::Error, "{step:?}");
        }
        assert!(!seen[2].unsupported);
    }
}
