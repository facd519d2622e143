// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same machine on several backends, and what was seen on each.

use kvm_slots::sim::{KernelVersion, SimConfig, VmType};
use kvm_slots::{AbiProfile, Capabilities};
use vmm::backend::Platform;
use vmm::machine::Machine;
use vmm::report::StepReport;
use vmm::run::Run;

/// The machines that users get: the built-in one and the examples, by name.
pub const MACHINES: [(&str, &str); 5] = [
    (
        "built_in",
        include_str!("../../crates/vmm/src/built-in.toml"),
    ),
    (
        "assigned_device",
        include_str!("../../examples/assigned-device.toml"),
    ),
    (
        "confidential",
        include_str!("../../examples/confidential.toml"),
    ),
    ("large", include_str!("../../examples/large.toml")),
    ("pc", include_str!("../../examples/pc.toml")),
];

/// One of [`MACHINES`].
///
/// # Errors
/// What is wrong with it, or that there is none of that name.
pub fn machine(name: &str) -> Result<Machine, String> {
    let text = MACHINES
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, text)| *text);
    let text = text.ok_or_else(|| format!("there is no machine '{name}'"))?;
    Machine::from_text(name, text).map_err(|error| error.to_string())
}

/// Runs a machine's whole script.
///
/// # Errors
/// Why it could not begin.
pub fn run<P: Platform>(machine: &Machine, platform: &P) -> Result<Vec<StepReport>, String> {
    let mut run = Run::new(machine, platform).map_err(|error| vmm::with_causes(&error))?;
    let steps = machine.steps.iter().enumerate();
    Ok(steps
        .map(|(index, step)| run.step(machine, index + 1, step))
        .collect())
}

/// That every step went as the machine says.
///
/// # Errors
/// The first that did not, as the user would see it.
pub fn all_ok(steps: &[StepReport]) -> Result<(), String> {
    match steps.iter().find(|step| !step.ok()) {
        Some(step) => Err(format!("not as expected:\n{}", step.text())),
        None => Ok(()),
    }
}

/// That two runs saw the same: how each step was resolved, its value, and which
/// memslot operations it led to.
///
/// # Errors
/// The first step that differs, from both runs.
pub fn same(one: &[StepReport], other: &[StepReport]) -> Result<(), String> {
    if one.len() != other.len() {
        return Err(format!("{} steps and {} steps", one.len(), other.len()));
    }
    match one.iter().zip(other).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("they differ:\n{}\n{}", a.text(), b.text())),
        None => Ok(()),
    }
}

/// A simulated kernel that can do what the real one can.
pub fn simulated_like(host: &Capabilities, physical_bits: u32) -> SimConfig {
    let kernel = match host {
        Capabilities {
            user_memory2: false,
            ..
        } => KernelVersion::V6_1,
        Capabilities {
            guest_memfd_flags, ..
        } if guest_memfd_flags.is_empty() => KernelVersion::V6_12,
        _ => KernelVersion::V6_18,
    };
    let private_pages = host.memory_attributes != 0;
    SimConfig {
        private_pages,
        vm_type: if private_pages {
            VmType::SwProtected
        } else {
            VmType::Plain
        },
        abi: AbiProfile::None,
        physical_bits,
        nr_memslots: u16::try_from(host.nr_memslots).unwrap_or(u16::MAX),
        ..SimConfig::released(kernel)
    }
}
