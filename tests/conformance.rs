// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every statement of `src/conformance` on every simulated kernel that has what
//! the statement needs. The hardware tests run them on the real KVM.

use kvm_bindings::KVM_CAP_PRE_FAULT_MEMORY;
use kvm_slots::PageSize;
use kvm_slots::convert::Home;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, Vm};
use libtest_mimic::{Arguments, Trial};
use tests::conformance::{Statement, all};
use tests::needs::Need;
use tests::subject::{Expected, Simulated, Subject, host_page_size};

const KERNELS: [KernelVersion; 4] = [
    KernelVersion::V6_1,
    KernelVersion::V6_12,
    KernelVersion::V6_18,
    KernelVersion::V7_3,
];

fn main() {
    let mut trials = Vec::new();
    for statement in all() {
        for config in configs() {
            let kernel = config.kernel;
            let config = SimConfig {
                // A kernel has such VMs only if it is built with them.
                private_pages: statement.vm_type == VmType::SwProtected,
                vm_type: statement.vm_type,
                ..config
            };
            let name = format!("{}::{}_on_{config}", statement.of, statement.name);
            let missing = missing(&statement, config);
            let trial = Trial::test(name, move || {
                let mut vm = Simulated::new(config, true)?;
                Ok(statement.on_simulated(&mut vm)?)
            });
            let why = match missing {
                Some(need) => Some(format!("skipped: {kernel} has no {need:?}")),
                // A simulated kernel cannot unmap a part of a page of its host.
                None if config.page_size.bytes() < host_page_size() => {
                    Some("skipped: this host's pages are larger".to_string())
                }
                None => None,
            };
            trials.push(match why {
                Some(why) => trial.with_kind(why).with_ignored_flag(true),
                None => trial,
            });
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Every simulated kernel: the released ones, on each architecture with each of its
/// page sizes, and patched ones.
fn configs() -> Vec<SimConfig> {
    let patched = |config| SimConfig {
        abi: AbiProfile::FD_OFFSET_BIT_4,
        ..config
    };
    let mut configs: Vec<SimConfig> = KERNELS.map(SimConfig::released).to_vec();
    configs.push(patched(SimConfig::released(KernelVersion::V7_3)));
    configs.push(SimConfig {
        home: Home::FileAttributes,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    for page_size in PageSize::ALL {
        configs.extend(KERNELS.map(|kernel| SimConfig::aarch64(kernel, page_size)));
        let latest = SimConfig::aarch64(KernelVersion::V7_3, page_size);
        configs.push(patched(latest));
    }
    configs
}

/// The first need that the simulated kernel does not meet.
fn missing(statement: &Statement, config: SimConfig) -> Option<Need> {
    let capabilities = Simulated::new(config, false).map(|vm| vm.capabilities());
    let pre_faults = SimVm::new(config).check_extension(KVM_CAP_PRE_FAULT_MEMORY) > 0;
    let has = |need: Need| match need {
        Need::UserMemory2 => capabilities.as_ref().is_ok_and(|c| c.user_memory2),
        Need::PreFault => pre_faults,
        Need::NoPreFault => !pre_faults,
        Need::GuestMemfd => capabilities.as_ref().is_ok_and(|c| c.guest_memfd),
        Need::MappableFilesOnly => !Expected::on(config.arch).unmappable_files,
        Need::MappableGuestMemfd => config.kernel >= KernelVersion::V6_18,
        Need::PrivatePages => capabilities
            .as_ref()
            .is_ok_and(|c| c.memory_attributes != 0),
        Need::FileAttributes => {
            config.vm_type == VmType::SwProtected && config.home == Home::FileAttributes
        }
        Need::ConvertiblePages => {
            Home::probe(&SimVm::new(config)).is_ok_and(Home::has_private_pages)
        }
        Need::NoFileAttributes => config.home != Home::FileAttributes,
        Need::LabFileAttributes => false,
        Need::Kvm | Need::Vcpus | Need::DirectGuest | Need::NoBackingFd => true,
        Need::ManualProtect | Need::DirtyRing => true,
        Need::HostPages(size) => config.page_size == size,
        Need::PreFaultEnds => config.kernel >= KernelVersion::V7_3,
        Need::BackingFd => config.abi != AbiProfile::None,
        // The simulation stands in for a device with a dma-buf.
        Need::HypercallExits | Need::VfioInterface(_) | Need::Vfio(_) => true,
        Need::LinuxGuest | Need::ConfidentialGuest => true,
        Need::KernelCode | Need::Selftests | Need::Processors(_) => true,
    };
    statement.needs.iter().copied().find(|need| !has(*need))
}
