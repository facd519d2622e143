// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets the attributes of pages, on every architecture: of a VM's addresses, or of a
//! guest_memfd's offsets.

use std::os::fd::BorrowedFd;

use kvm_bindings::kvm_memory_attributes;
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

use super::numbers::{KVM_SET_MEMORY_ATTRIBUTES, KVM_SET_MEMORY_ATTRIBUTES2};
use crate::vm::errno::Errno;
use crate::vm::file_attributes::FileAttributesError;

/// `KVM_SET_MEMORY_ATTRIBUTES`.
pub(crate) fn set_memory_attributes(
    vm: &VmFd,
    address: u64,
    size: u64,
    attributes: u64,
) -> Result<(), Errno> {
    let attributes = kvm_memory_attributes {
        address,
        size,
        attributes,
        flags: 0,
    };
    // SAFETY: `attributes` has the layout that the ioctl takes, and is only read. It has
    // no addresses of the process.
    match unsafe { ioctl_with_ref(vm, KVM_SET_MEMORY_ATTRIBUTES(), &attributes) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// `struct kvm_memory_attributes2` of the patches for conversion in place (v8 of June
/// 2026), which kvm-bindings 0.14 lacks.
#[repr(C)]
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Default)]
pub(super) struct kvm_memory_attributes2 {
    offset: u64,
    size: u64,
    attributes: u64,
    flags: u64,
    error_offset: u64,
    reserved: [u64; 11],
}

const _: () = assert!(size_of::<kvm_memory_attributes2>() == 128);

/// `KVM_SET_MEMORY_ATTRIBUTES2` on a guest_memfd.
pub(crate) fn set_file_attributes(
    file: BorrowedFd<'_>,
    offset: u64,
    size: u64,
    attributes: u64,
) -> Result<(), FileAttributesError> {
    let mut attributes = kvm_memory_attributes2 {
        offset,
        size,
        attributes,
        ..Default::default()
    };
    // SAFETY: `attributes` has the layout and the size that the number encodes. The kernel
    // reads it and writes back to it, and it has no addresses of the process. Another
    // kind of file does not know the number, which is KVM's.
    let result =
        unsafe { ioctl_with_mut_ref(&file, KVM_SET_MEMORY_ATTRIBUTES2(), &mut attributes) };
    if result == 0 {
        return Ok(());
    }
    let errno = Errno::last();
    Err(FileAttributesError {
        errno,
        pinned_at: (errno == Errno::EAGAIN).then_some(attributes.error_offset),
    })
}
