// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What becomes of the private ranges of a TEE device interface.

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use vfio_private::tdi::{MappingState, TdiState};
use vmm::backend::sim::Sim;
use vmm::machine::Machine;
use vmm::run::Run;

/// Two interfaces side by side, and RAM whose pages can be private. Interface `a` has its BAR at 1 MiB,
/// with 16 KiB of private bytes and 16 KiB of shared ones. `b` follows at once, all private.
const REGIONS: &str = r#"
on-memory-fault = "convert"
region = [
    { name = "ram", kind = "ram", at = 0, size = "64K", backing = "private" },
    { name = "a", kind = "bar", tdi = "a", at = 0x10_0000, size = "32K",
      private = [{ at = 0x4000, size = "16K" }], shared = [{ at = 0, size = "16K" }] },
    { name = "b", kind = "bar", tdi = "b", bar = 3, at = 0x10_8000, size = "32K",
      private = [{ at = 0, size = "32K" }] },
    { name = "window", kind = "alias", target = "b", at = 0x20_0000, size = "32K" },
]
"#;

/// Runs steps, each of which must be as expected, and returns the machine as it is then.
#[track_caller]
fn run(steps: &[&str]) -> Run<Sim> {
    let text = format!("{REGIONS}step = [\n{{ {} }},\n]\n", steps.join(" },\n{ "));
    let machine = Machine::from_text("m.toml", &text).unwrap();
    let sim = Sim::new(&machine, KernelVersion::V7_3, AbiProfile::FD_OFFSET_BIT_4);
    let mut run = Run::new(&machine, &sim).unwrap();
    for (n, step) in machine.steps.iter().enumerate() {
        let report = run.step(&machine, n + 1, step);
        assert!(report.ok(), "{}", report.text());
    }
    run
}

fn confirmed(run: &Run<Sim>, tdi: usize) -> Vec<(u64, u64)> {
    let tdi = run.board.tdis[tdi].tdi();
    let states = tdi.mappings().map(|held| {
        assert_eq!(held.state, MappingState::Confirmed);
        (held.mapping.bytes().start(), held.mapping.gpa().start())
    });
    states.collect()
}

const LOCK_A: &str = r#"do = "lock", region = "a""#;
const LOCK_B: &str = r#"do = "lock", region = "b""#;

#[test]
fn only_one_interfaces_private_bytes_can_be_accepted_at_once() {
    let across = r#"do = "accept", at = 0x10_4000, size = "32K", fails = "wrong-kind""#;
    let shared = r#"do = "accept", at = 0x10_0000, size = "32K", fails = "wrong-kind""#;
    let own = r#"do = "accept", at = 0x10_4000, size = "16K""#;
    let again = r#"do = "accept", at = 0x10_6000, size = "4K", fails = "tdi""#;
    let run = run(&[LOCK_A, LOCK_B, across, shared, own, again]);
    assert_eq!(confirmed(&run, 0), [(0x4000, 0x10_4000)]);
    assert_eq!(confirmed(&run, 1), []);
}

#[test]
fn a_failure_of_one_interface_leaves_the_other_as_it_is() {
    let a = r#"do = "accept", at = 0x10_4000, size = "16K""#;
    let b = r#"do = "accept", at = 0x10_8000, size = "16K""#;
    let run = run(&[LOCK_A, LOCK_B, a, b, r#"do = "break", region = "a""#]);
    assert_eq!(
        (confirmed(&run, 0), confirmed(&run, 1)),
        (vec![], vec![(0, 0x10_8000)])
    );
    assert_eq!(run.board.tdis[0].tdi().state(), TdiState::Error);
    assert_eq!(run.board.tdis[1].tdi().state(), TdiState::Locked);
}

#[test]
fn give_back_and_revoke_release_parts() {
    let accept = r#"do = "accept", at = 0x10_8000, size = "32K""#;
    let give_back = r#"do = "give-back", at = 0x10_9000, size = "4K""#;
    let revoke = r#"do = "revoke", at = 0x10_0000, size = "36K""#;
    let run = run(&[LOCK_B, accept, give_back, revoke]);
    assert_eq!(confirmed(&run, 1), [(0x2000, 0x10_a000)]);
}

#[test]
fn bytes_that_an_alias_shows_are_the_interfaces_own_and_mapped_once() {
    let accept = r#"do = "accept", at = 0x20_1000, size = "4K""#;
    let again = r#"do = "accept", at = 0x10_9000, size = "4K", fails = "tdi""#;
    let run = run(&[LOCK_B, accept, again]);
    assert_eq!(confirmed(&run, 1), [(0x1000, 0x20_1000)]);
}

#[test]
fn a_conversion_at_a_memory_fault_needs_the_lock_too() {
    let touch = |how| {
        format!(r#"do = "write", at = 0x10_8000, state = "private", value = 1, how = "{how}""#)
    };
    let back = r#"do = "convert", at = 0x10_8000, size = "4K", state = "shared""#;
    let (refused, direct) = (touch("memory-fault"), touch("direct"));
    let run = run(&[&refused, LOCK_B, &direct, back, &direct]);
    assert_eq!(confirmed(&run, 1), [(0, 0x10_8000)]);
}
