// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The built-in machine and the examples, on every simulated kernel.

use kvm_slots::AbiProfile;
use kvm_slots::convert::Home;
use kvm_slots::sim::{KernelVersion, SimConfig, VmType};
use tests::backends::{MACHINES, WITH_DEVICES, all_ok, machine, run};
use vmm::backend::sim::Sim;
use vmm::machine::How;

const KERNELS: [KernelVersion; 4] = [
    KernelVersion::V6_1,
    KernelVersion::V6_12,
    KernelVersion::V6_18,
    KernelVersion::V7_3,
];

#[test]
fn every_machine_meets_its_expectations_on_every_simulated_kernel() {
    for (name, _) in MACHINES {
        let machine = machine(name).unwrap();
        for kernel in KERNELS {
            for abi in [AbiProfile::None, AbiProfile::FD_OFFSET_BIT_4] {
                let steps = run(&machine, &Sim::new(&machine, kernel, abi)).unwrap();
                let result = all_ok(&steps);
                assert_eq!(result, Ok(()), "{name} on {kernel} with {abi}");
            }
        }
    }
}

#[test]
fn every_example_in_the_folder_is_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .map(|path| {
            path.file_stem()
                .unwrap()
                .to_string_lossy()
                .replace('-', "_")
        })
        .collect();
    names.sort();
    // Machines with real devices are hardware tests.
    let run = MACHINES.iter().skip(1).chain(&WITH_DEVICES);
    let mut run: Vec<&str> = run.map(|(name, _)| *name).collect();
    run.sort_unstable();
    assert_eq!(names, run);
}

#[test]
fn private_mmio_is_direct_where_the_kernel_has_slots_for_it_and_nowhere_else() {
    let machine = machine("built_in").unwrap();
    for kernel in KERNELS {
        for abi in [AbiProfile::None, AbiProfile::FD_OFFSET_BIT_4] {
            let steps = run(&machine, &Sim::new(&machine, kernel, abi)).unwrap();
            let mut reads = steps
                .iter()
                .filter(|step| step.op == "read" && step.region.starts_with("private-registers"));
            // The profile extends KVM_SET_USER_MEMORY_REGION2, which 6.1 lacks.
            let can = abi != AbiProfile::None && kernel != KernelVersion::V6_1;
            let how = if can { How::Direct } else { How::Error };
            assert!(reads.clone().count() >= 2);
            assert!(
                reads.all(|step| step.seen.how == how),
                "{kernel} with {abi}"
            );
        }
    }
}

#[test]
fn every_step_of_a_machine_leaves_exactly_the_slots_of_its_view() {
    for (name, _) in MACHINES {
        let machine = machine(name).unwrap();
        let sim = Sim::new(&machine, KernelVersion::V7_3, AbiProfile::FD_OFFSET_BIT_4);
        let mut run = vmm::run::Run::new(&machine, &sim).unwrap();
        for (index, step) in machine.steps.iter().enumerate() {
            run.step(&machine, index + 1, step);
            let view = run.board.model.view(run.board.space);
            let slots = run.slots();
            // Every direct page is in a slot, and every slot has only direct
            // pages.
            let direct = view.ranges().filter(|r| r.access().reads_directly());
            let pages = direct.map(|r| {
                let (start, last) = (u128::from(r.range().start()), u128::from(r.range().last()));
                ((last + 1) / 4096).saturating_sub(start.div_ceil(4096))
            });
            let in_slots = slots.iter().map(|slot| u128::from(slot.size() / 4096));
            assert_eq!(
                pages.sum::<u128>(),
                in_slots.sum(),
                "{name}, step {}",
                index + 1
            );
        }
    }
}

/// Machines whose guests convert memory. They also hide private memory, which is a
/// memory fault where addresses have the state, and a hole where files have it.
const CONVERTING: [&str; 2] = ["confidential", "memory_faults"];

#[test]
fn a_guest_that_converts_memory_sees_the_same_in_attributes_and_on_a_platform() {
    for name in CONVERTING {
        let machine = machine(name).unwrap();
        for home in [Home::VmAttributes, Home::Platform] {
            let sim = Sim::of(SimConfig {
                home,
                private_pages: home == Home::VmAttributes,
                vm_type: VmType::SwProtected,
                abi: AbiProfile::FD_OFFSET_BIT_4,
                ..SimConfig::released(KernelVersion::V7_3)
            });
            let steps = run(&machine, &sim).unwrap();
            all_ok(&steps).unwrap_or_else(|why| panic!("{name}, {home}: {why}"));
        }
    }
}
