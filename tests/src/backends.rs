// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a machine file on several backends and compares the reports.

use std::sync::OnceLock;

use kvm_bindings::{
    KVM_CAP_MULTI_ADDRESS_SPACE, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::{KernelVersion, SimConfig, VmType};
use kvm_slots::{AbiProfile, Capabilities, Errno, KvmVm, Vm};
use vmm::backend::Platform;
use vmm::machine::Machine;
use vmm::report::StepReport;
use vmm::run::Run;

use crate::subject::{Arena, HostChange, Real, Subject};

/// The built-in machine and the examples, by name.
pub const MACHINES: [(&str, &str); 6] = [
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
];

/// The examples with real devices.
pub const WITH_DEVICES: [(&str, &str); 2] = [
    (
        "real_devices",
        include_str!("../../examples/real-devices.toml"),
    ),
    (
        "private_mmio",
        include_str!("../../examples/private-mmio.toml"),
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

/// A simulated kernel with the capabilities of the real one. `vm` is a real VM
/// without slots.
///
/// # Errors
/// A message that says why no guest can be run to find out.
pub fn simulated_like(vm: &KvmVm, physical_bits: u32) -> Result<SimConfig, String> {
    let capabilities = Capabilities::probe(vm);
    let private = capabilities.memory_attributes != 0;
    Ok(SimConfig {
        // Without any attribute, this is the only error that it could return.
        private_pages: vm.set_memory_attributes(0, 4096, 0) != Err(Errno::ENOTTY),
        vm_type: match private {
            true => VmType::SwProtected,
            false => VmType::Plain,
        },
        smm: !private && vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE) > 1,
        two_dimensional_paging: !takes_slots_up_to_2_to_52(vm),
        emulates_guest: emulates_guest()?,
        abi: AbiProfile::None,
        physical_bits,
        nr_memslots: u16::try_from(capabilities.nr_memslots).unwrap_or(u16::MAX),
        ..SimConfig::released(version(&capabilities))
    })
}

/// The simulated version with the same checks as this kernel.
fn version(capabilities: &Capabilities) -> KernelVersion {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
    match (number(), number()) {
        _ if !capabilities.user_memory2 => KernelVersion::V6_1,
        // Distributions backport features to older kernels.
        (..=5, _) | (6, ..=17) if capabilities.guest_memfd_flags.is_empty() => KernelVersion::V6_12,
        (..=6, _) | (7, ..=2) => KernelVersion::V6_18,
        _ => KernelVersion::V7_3,
    }
}

/// KVM without two-dimensional paging does so, whatever the processor's address
/// width.
fn takes_slots_up_to_2_to_52(vm: &KvmVm) -> bool {
    let mut region = kvm_userspace_memory_region {
        guest_phys_addr: (1 << 52) - 4096,
        memory_size: 4096,
        userspace_addr: 4096,
        ..Default::default()
    };
    // SAFETY: no guest runs while the slot exists.
    let taken = unsafe { vm.set_user_memory_region(&region) }.is_ok();
    region.memory_size = 0;
    // SAFETY: a deletion names no memory.
    let _ = unsafe { vm.set_user_memory_region(&region) };
    taken
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
            memory_size: 4096,
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
