// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What only a kernel for x86-64 has.

use kvm_bindings::KVM_CAP_MULTI_ADDRESS_SPACE;
use kvm_slots::PageSize;
use kvm_slots::sim::{KernelVersion, SimConfig, VmType};
use kvm_slots::{Capabilities, Errno, KvmVm, Vm};

use super::takes_slot;
use crate::backends::emulates_guest;

pub(super) fn simulated_like(
    vm: &KvmVm,
    kernel: KernelVersion,
    page_size: PageSize,
) -> Result<SimConfig, String> {
    let private = Capabilities::probe(vm).memory_attributes != 0;
    let page_size = page_size.bytes();
    // KVM without two-dimensional paging takes slots up to there, whatever the
    // processor's address width.
    let shadow = takes_slot(vm, (1 << 52) - page_size, page_size);
    Ok(SimConfig {
        // Without any attribute, this is the only error that it could return.
        private_pages: vm.set_memory_attributes(0, page_size, 0) != Err(Errno::ENOTTY),
        vm_type: match private {
            true => VmType::SwProtected,
            false => VmType::Plain,
        },
        smm: !private && vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE) > 1,
        two_dimensional_paging: !shadow,
        emulates_guest: emulates_guest()?,
        ..SimConfig::released(kernel)
    })
}
