// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM knows a device's file of VFIO before the device is opened.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::Kvm;
use kvm_slots::KvmVm;
use vfio_private::device::{Device, DeviceError, FileRegistry, Iommu, PciAddress, VfioInterface};
use vmm::devices::vfio_files::VfioFiles;

use super::{Model, at, iommu_of, same};

/// KVM's list, with a record of the calls.
#[derive(Debug)]
struct Recorded {
    files: VfioFiles,
    calls: Mutex<Vec<&'static str>>,
    /// Adds each file twice, which KVM refuses.
    adds_twice: bool,
}

impl Recorded {
    fn new(vm: &KvmVm, adds_twice: bool) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            files: VfioFiles::new(vm.fd()).map_err(at("KVM's list"))?,
            calls: Mutex::default(),
            adds_twice,
        }))
    }

    fn call(&self, name: &'static str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(name);
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl FileRegistry for Recorded {
    fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.files.add(file)?;
        self.call("add");
        if !self.adds_twice {
            return Ok(());
        }
        let twice = self.files.add(file);
        self.files.remove(file);
        twice
    }

    fn remove(&self, file: BorrowedFd<'_>) {
        self.call("remove");
        self.files.remove(file);
    }
}

/// The file is in KVM's list while the device is open. Afterwards, and when it was refused, the device
/// can be opened again: KVM has no reference to the file.
pub(super) fn kvm_lists_it_while_it_is_open(device: &Device) -> Result<(), String> {
    let interface = iommu_of(device).interface();
    let address = Model::Ivshmem.bound()?;
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let vm = KvmVm::create(&kvm, 0).map_err(at("a VM"))?;

    let listed = Recorded::new(&vm, false)?;
    let iommu = Iommu::with_registry(interface, listed.clone()).map_err(at("a space"))?;
    let opened = Device::open(&iommu, address).map_err(at("a device"))?;
    same("calls", listed.take(), vec!["add"])?;
    drop((iommu, opened));
    same("calls", listed.take(), vec!["remove"])?;
    opens_alone(interface, address)?;
    // A VM has at most one list.
    drop(listed);

    let vm = KvmVm::create(&kvm, 0).map_err(at("a VM"))?;
    let refusing = Recorded::new(&vm, true)?;
    let iommu = Iommu::with_registry(interface, refusing.clone()).map_err(at("a space"))?;
    let refused = Device::open(&iommu, address).err();
    let errno = libc::EEXIST;
    let due = DeviceError::Register { address, errno };
    same("a file that is listed", refused, Some(due))?;
    same("calls", refusing.take(), vec!["add"])?;
    opens_alone(interface, address)
}

/// Opens the device in a new address space: no one else has its group.
fn opens_alone(interface: VfioInterface, address: PciAddress) -> Result<(), String> {
    let iommu = Iommu::new(interface).map_err(at("a space"))?;
    Device::open(&iommu, address).map(drop).map_err(at("again"))
}
