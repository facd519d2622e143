// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What only a kernel for x86-64 has.

use std::os::fd::AsFd;

use kvm_bindings::KVM_CAP_MULTI_ADDRESS_SPACE;
use kvm_slots::PageSize;
use kvm_slots::convert::Home;
use kvm_slots::sim::{KernelVersion, SimConfig, VmType};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Capabilities, Errno, GuestMemfdFlags, KvmVm, Vm};

use super::takes_slot;
use crate::backends::emulates_guest;

pub(super) fn simulated_like(
    vm: &KvmVm,
    kernel: KernelVersion,
    page_size: PageSize,
) -> Result<SimConfig, String> {
    let page_size = page_size.bytes();
    let file = vm.create_guest_memfd(page_size, GuestMemfdFlags::empty());
    let takes = |attributes: u64| match &file {
        Ok(file) => vm.set_file_attributes(file.as_fd(), 0, page_size, attributes) == Ok(()),
        Err(_) => false,
    };
    let of_files = takes(0);
    let private = Capabilities::probe(vm).memory_attributes != 0 || takes(MEMORY_ATTRIBUTE_PRIVATE);
    // KVM without two-dimensional paging takes slots up to there, whatever the
    // processor's address width.
    let shadow = takes_slot(vm, (1 << 52) - page_size, page_size);
    Ok(SimConfig {
        // Without any attribute, this is the only error that it could return.
        private_pages: vm.set_memory_attributes(0, page_size, 0) != Err(Errno::ENOTTY),
        home: match of_files {
            true => Home::FileAttributes,
            false => Home::VmAttributes,
        },
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
