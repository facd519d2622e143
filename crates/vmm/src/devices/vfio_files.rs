// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's list of the VFIO files of a VM (Documentation/virt/kvm/devices/vfio.rst).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL, kvm_create_device,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};
use vfio_private::device::FileRegistry;

use crate::backend::kvm::KvmError;

/// The list. KVM drops it when this value is dropped.
#[derive(Debug)]
pub struct VfioFiles(DeviceFd);

impl VfioFiles {
    /// An empty list. A VM can have only one.
    ///
    /// # Errors
    /// [`KvmError::Vm`].
    pub fn new(vm: &VmFd) -> Result<Self, KvmError> {
        let mut device = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
            ..Default::default()
        };
        let refused = |error: kvm_ioctls::Error| {
            KvmError::Vm("list the assigned devices of a VM", error.into())
        };
        Ok(Self(vm.create_device(&mut device).map_err(refused)?))
    }

    /// Passes a descriptor, whose number KVM reads during the call.
    fn set(&self, attribute: u32, file: BorrowedFd<'_>) -> io::Result<()> {
        let number = file.as_raw_fd();
        let set = self.0.set_device_attr(&kvm_device_attr {
            group: KVM_DEV_VFIO_FILE,
            attr: attribute.into(),
            addr: (&raw const number).expose_provenance() as u64,
            flags: 0,
        });
        set.map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

impl FileRegistry for VfioFiles {
    fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.set(KVM_DEV_VFIO_FILE_ADD, file)
    }

    fn remove(&self, file: BorrowedFd<'_>) {
        // The list ends with the VM, which keeps the file open no longer than that.
        let _ = self.set(KVM_DEV_VFIO_FILE_DEL, file);
    }
}
