// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real KVM.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{
    kvm_create_guest_memfd, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_ioctls::VmFd;

use crate::{Errno, GuestMemfdFlags, PushMap, Vm};

/// A VM of the kernel's KVM.
#[derive(Clone, Debug)]
pub struct KvmVm {
    vm: Arc<VmFd>,
    push_map: Option<Arc<dyn PushMap>>,
}

impl KvmVm {
    /// Uses the VM behind `vm`. All memslots of that VM must be left to this
    /// crate: it keeps its own table of them.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, push_map: None }
    }

    /// With the platform's call that maps a device's memory without a memslot.
    #[must_use]
    pub fn with_push_map(self, push_map: Arc<dyn PushMap>) -> Self {
        Self {
            push_map: Some(push_map),
            ..self
        }
    }

    /// The VM's descriptor, for everything that is not memory.
    pub fn fd(&self) -> &VmFd {
        &self.vm
    }
}

impl Vm for KvmVm {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension_raw(capability.into())
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: the caller promises about the host address exactly what
        // kvm-ioctls asks for; the struct itself is passed by value.
        Ok(unsafe { self.vm.set_user_memory_region2(*region) }?)
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: as above.
        Ok(unsafe { self.vm.set_user_memory_region(*region) }?)
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        let fd = self.vm.create_guest_memfd(kvm_create_guest_memfd {
            size,
            flags: flags.bits(),
            ..Default::default()
        })?;
        // SAFETY: the ioctl has just made this descriptor for us alone:
        // kvm-ioctls returns the bare number and keeps no copy of it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        return Ok(self
            .vm
            .set_memory_attributes(kvm_bindings::kvm_memory_attributes {
                address: gpa,
                size,
                attributes,
                flags: 0,
            })?);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            // The ioctl is generic, but kvm-ioctls has it for these only.
            let _ = (gpa, size, attributes);
            Err(Errno::ENOTTY)
        }
    }
    fn push_map(&self) -> Option<&dyn PushMap> {
        self.push_map.as_deref()
    }
}
