// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What KVM does on x86-64 (arch/x86/kvm/x86.c, Linux 7.3).

use kvm_bindings::{KVM_CAP_MEMORY_FAULT_INFO, KVM_CAP_MULTI_ADDRESS_SPACE, KVM_CAP_VM_TYPES};

use super::{ExitBy, Rules};
use crate::sim::kernel::{KernelVersion, SimConfig, VmType};
use crate::vm::errno::Errno;

/// The user half of a 47-bit address space, without its last page. The memory of a
/// simulated guest is this process's, so that on another architecture's host the
/// addresses are that host's.
const USER_END: u64 = match cfg!(target_arch = "x86_64") {
    true => (1 << 47) - 4096,
    false => 1 << 56,
};

pub(super) const RULES: Rules = Rules {
    user_end: USER_END,
    unknown_ioctl: Errno::ENOTTY,
    beyond_guest: Errno::EINVAL,
    unmappable_files: true,
    private_memory: true,
    second_address_space: true,
    pre_fault: true,
    fault_granule: None,
    exit_by: ExitBy::Instruction,
    capability,
    vm_of_type,
};

fn capability(config: &SimConfig, capability: u32) -> Option<i32> {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    Some(match capability {
        KVM_CAP_MULTI_ADDRESS_SPACE => number(config.address_spaces()),
        KVM_CAP_MEMORY_FAULT_INFO => config.has_region2().into(),
        KVM_CAP_VM_TYPES => vm_types(config),
        _ => return None,
    })
}

/// `KVM_X86_DEFAULT_VM` and `KVM_X86_SW_PROTECTED_VM`.
fn vm_of_type(config: SimConfig, number: u64) -> Option<SimConfig> {
    let made = |bit: i32| vm_types(&config) & bit != 0;
    let vm_type = match number {
        // Kernels that do not list types have this one.
        0 => VmType::Plain,
        1 if made(1 << 1) => VmType::SwProtected,
        _ => return None,
    };
    Some(SimConfig { vm_type, ..config })
}

/// The types of VM that this kernel makes, one bit each.
fn vm_types(config: &SimConfig) -> i32 {
    let private = config.has_attributes() && config.two_dimensional_paging;
    match config.kernel {
        KernelVersion::V6_1 => 0,
        _ => 1 | i32::from(private) << 1,
    }
}
