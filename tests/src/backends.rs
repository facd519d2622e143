// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a machine file on several backends and compares the reports.

use std::sync::OnceLock;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::VmType;
use vmm::backend::Platform;
use vmm::machine::Machine;
use vmm::report::StepReport;
use vmm::run::Run;

use crate::subject::{Arena, HostChange, Real, Subject};

/// The built-in machine and the examples, by name.
pub const MACHINES: [(&str, &str); 7] = [
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
    (
        "memory_faults",
        include_str!("../../examples/memory-faults.toml"),
    ),
    ("pc", include_str!("../../examples/pc.toml")),
    ("tee_device", include_str!("../../examples/tee-device.toml")),
];

/// The examples with real devices.
pub const WITH_DEVICES: [(&str, &str); 3] = [
    (
        "real_devices",
        include_str!("../../examples/real-devices.toml"),
    ),
    (
        "private_mmio",
        include_str!("../../examples/private-mmio.toml"),
    ),
    (
        "private_mmio_plain",
        include_str!("../../examples/private-mmio-plain.toml"),
    ),
];

/// One of [`MACHINES`] or [`WITH_DEVICES`].
///
/// # Errors
/// The machine is not valid, or there is none of that name.
pub fn machine(name: &str) -> Result<Machine, String> {
    let text = MACHINES
        .iter()
        .chain(&WITH_DEVICES)
        .find(|(other, _)| *other == name)
        .map(|(_, text)| *text);
    let text = text.ok_or_else(|| format!("there is no machine '{name}'"))?;
    Machine::from_text(name, text).map_err(|error| error.to_string())
}

/// Runs a machine's whole script.
///
/// # Errors
/// A message that says why it could not start.
pub fn run<P: Platform>(machine: &Machine, platform: &P) -> Result<Vec<StepReport>, String> {
    let mut run = Run::new(machine, platform).map_err(|error| vmm::with_causes(&error))?;
    let steps = machine.steps.iter().enumerate();
    Ok(steps
        .map(|(index, step)| run.step(machine, index + 1, step))
        .collect())
}

/// Requires that every step met the machine's expectation.
///
/// # Errors
/// The first step that did not, as the user would see it.
pub fn all_ok(steps: &[StepReport]) -> Result<(), String> {
    match steps.iter().find(|step| !step.ok()) {
        Some(step) => Err(format!("not as expected:\n{}", step.text())),
        None => Ok(()),
    }
}

/// Requires that two runs are equal: how each step was resolved, its value, and
/// the memslot operations.
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

/// Whether KVM emulates the guest. If so, a load where the host has no memory
/// is an exit to the VMM.
///
/// # Errors
/// A message that says why no guest can be run to find out.
pub fn emulates_guest() -> Result<bool, String> {
    static KNOWN: OnceLock<Result<bool, String>> = OnceLock::new();
    let probe = || {
        let mut real = Real::new(VmType::Plain, true)?;
        let memory = Arena::new(1);
        memory.change(0, HostChange::Unmap);
        let region = kvm_userspace_memory_region2 {
            memory_size: memory.page_size(),
            userspace_addr: memory.address(0),
            ..Default::default()
        };
        // SAFETY: the address belongs to the arena, which outlives `real`. There
        // are no references to it.
        unsafe { real.set(&region, true) }.map_err(|e| e.to_string())?;
        let emulates = real.access(0, 1, None, &mut Zeros).is_ok();
        drop(real);
        Ok(emulates)
    };
    KNOWN.get_or_init(probe).clone()
}

/// Answers every exit with zeros.
pub(crate) struct Zeros;

impl MmioHandler for Zeros {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}
