// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Machine files. Small ones are also run on the simulated KVM.

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use memory_map::text;
use vmm::backend::sim::Sim;
use vmm::machine::Machine;
use vmm::run::Run;

/// Large machines are slow, and find no more faults.
const MAX_REGIONS: usize = 32;
const MAX_STEPS: usize = 64;

/// The text of a machine file.
pub fn machine(data: &[u8]) -> bool {
    let Ok(toml) = std::str::from_utf8(data) else {
        return false;
    };
    match Machine::from_text("machine.toml", toml) {
        Ok(machine) => {
            if machine.regions.len() <= MAX_REGIONS && machine.steps.len() <= MAX_STEPS {
                run(&machine);
            }
            true
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("machine.toml:"), "{said}");
            let lines = toml.lines().count() + 1;
            assert!(
                error.line.is_some_and(|n| (1..=lines).contains(&n)),
                "{said}"
            );
            assert!(!error.problem.is_empty() && said.len() < 1000, "{said}");
            assert!(!said.contains(|c: char| c.is_control()), "{said:?}");
            false
        }
    }
}

/// Creates a machine and runs its steps, which may fail.
fn run(machine: &Machine) {
    let sim = Sim::new(machine, KernelVersion::V7_3, AbiProfile::FD_OFFSET_BIT_4);
    let Ok(mut run) = Run::new(machine, &sim) else {
        return;
    };
    for (index, step) in machine.steps.iter().enumerate() {
        let report = run.step(machine, index + 1, step);
        assert!(!report.text().is_empty());
    }
    let map = run.board.map(&machine.name);
    let bytes = text::tree(&map).len() + text::flat(&map).len() + text::slots(&map).len();
    assert!(bytes > 0);
}
