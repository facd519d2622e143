// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers of ioctls (include/uapi/linux/kvm.h).
// The macros make functions with the names of the header.
#![allow(missing_docs)]

use super::attributes::kvm_memory_attributes2;
use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_dirty_log, kvm_memory_attributes, kvm_pre_fault_memory,
};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
ioctl_iow_nr!(
    KVM_SET_MEMORY_ATTRIBUTES,
    KVMIO,
    0xd2,
    kvm_memory_attributes
);
// The same number as above: the kernel tells them apart by direction and size.
ioctl_iowr_nr!(
    KVM_SET_MEMORY_ATTRIBUTES2,
    KVMIO,
    0xd2,
    kvm_memory_attributes2
);
ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);
