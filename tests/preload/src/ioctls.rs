// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The numbers of KVM's ioctls (include/uapi/linux/kvm.h).

use kvm_bindings::{
    kvm_create_guest_memfd, kvm_memory_attributes, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};

/// `KVMIO`.
const KVMIO: u64 = 0xae;
const WRITE: u64 = 1 << 30;
const READ: u64 = 2 << 30;

const fn plain(nr: u64) -> u64 {
    KVMIO << 8 | nr
}

const fn with<T>(direction: u64, nr: u64) -> u64 {
    direction | (size_of::<T>() as u64) << 16 | KVMIO << 8 | nr
}

pub(crate) const GET_API_VERSION: u64 = plain(0x00);
pub(crate) const CREATE_VM: u64 = plain(0x01);
pub(crate) const CHECK_EXTENSION: u64 = plain(0x03);
/// The size is that of `kvm_cpuid2` without entries.
pub(crate) const GET_SUPPORTED_CPUID: u64 = with::<[u32; 2]>(READ | WRITE, 0x05);
pub(crate) const SET_USER_MEMORY_REGION: u64 = with::<kvm_userspace_memory_region>(WRITE, 0x46);
pub(crate) const SET_USER_MEMORY_REGION2: u64 = with::<kvm_userspace_memory_region2>(WRITE, 0x49);
pub(crate) const SET_MEMORY_ATTRIBUTES: u64 = with::<kvm_memory_attributes>(WRITE, 0xd2);
pub(crate) const CREATE_GUEST_MEMFD: u64 = with::<kvm_create_guest_memfd>(READ | WRITE, 0xd4);

/// The name of an ioctl that is not simulated: it ends a subtest.
pub(crate) fn name(request: u64) -> &'static str {
    match request & 0xffff {
        0xae04 => "KVM_GET_VCPU_MMAP_SIZE",
        0xae41 => "KVM_CREATE_VCPU",
        0xae42 => "KVM_GET_DIRTY_LOG",
        0xae44 => "KVM_SET_NR_MMU_PAGES",
        0xae60 => "KVM_CREATE_IRQCHIP",
        0xae80 => "KVM_RUN",
        0xaea3 => "KVM_ENABLE_CAP",
        // Names last as long as the report, which is as long as the process.
        _ => format!("ioctl {request:#x}").leak(),
    }
}

const _: () = assert!(SET_USER_MEMORY_REGION == 0x4020_ae46);
const _: () = assert!(SET_USER_MEMORY_REGION2 == 0x40a0_ae49);
const _: () = assert!(SET_MEMORY_ATTRIBUTES == 0x4020_aed2);
const _: () = assert!(CREATE_GUEST_MEMFD == 0xc040_aed4);
const _: () = assert!(GET_SUPPORTED_CPUID == 0xc008_ae05);
