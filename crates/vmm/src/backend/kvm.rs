// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The platform that is the kernel's KVM.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kvm_ioctls::Kvm as KvmDevice;
use kvm_slots::probe::{ProbeError, probe_abi};
use kvm_slots::{AbiProfile, Errno, KvmVm, SlotTable};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::Platform;
use crate::devices::assigned::{AssignError, AssignedDevices, BarWindow};
use crate::guest::stub::Stub;
use crate::guest::{Code, GuestError, Processor, ProcessorError, VcpuGuest, VmError};
use crate::machine::{AssignedBar, Machine};

/// The kernel's KVM with one VM.
#[derive(Debug)]
pub struct Kvm {
    vm: KvmVm,
    processor: Processor,
    abi: AbiProfile,
    devices: AssignedDevices,
}

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// The device cannot be opened.
    #[error("{} cannot be opened: {}", .0.display(), .1)]
    Open(PathBuf, io::Error),
    /// The device is not KVM's.
    #[error("{} is not KVM: it does not answer KVM_GET_API_VERSION with 12", .0.display())]
    NotKvm(PathBuf),
    /// KVM is there, but cannot create a VM.
    #[error("KVM cannot {0}: {1}")]
    Vm(&'static str, Errno),
    /// The kernel has no VMs whose pages software makes private.
    #[error("KVM has no software-protected VMs ({0})")]
    NoPrivatePages(&'static str),
    /// The kernel does not have the requested ABI.
    #[error("KVM takes no memory without a host address by {0}: {1}")]
    Abi(AbiProfile, ProbeError),
    /// No guest can run on this processor.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
}

impl From<VmError> for KvmError {
    fn from(error: VmError) -> Self {
        match error {
            VmError::NoPrivatePages(why) => Self::NoPrivatePages(why),
            VmError::Refused(errno) => Self::Vm("create a VM", errno),
        }
    }
}

impl Kvm {
    /// A VM of the type that `machine` needs, or a plain one if the kernel has no
    /// other. Probes that the kernel has the ABI.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(machine: &Machine, device: &Path, abi: AbiProfile) -> Result<Self, KvmError> {
        let kvm = open(device)?;
        let mut processor = Processor::probe(&kvm)?;
        processor.reach(machine.address_bits());
        let wanted = machine.has_private_pages() || abi.needs_private_memory();
        let vm = match create_vm(&kvm, &processor, wanted, abi) {
            Err(KvmError::NoPrivatePages(_)) => create_vm(&kvm, &processor, false, abi),
            created => created,
        }?;
        Ok(Self {
            vm,
            processor,
            abi,
            devices: AssignedDevices::default(),
        })
    }
}

/// Creates a VM that can have any address of the processor, with or without private
/// pages. Probes that the kernel has the ABI.
pub(crate) fn create_vm(
    kvm: &KvmDevice,
    processor: &Processor,
    private: bool,
    abi: AbiProfile,
) -> Result<KvmVm, KvmError> {
    let vm = match private {
        true => processor.private_vm(kvm),
        false => processor.plain_vm(kvm),
    };
    let vm = vm?.with_address_bits(processor.physical_bits());
    if abi != AbiProfile::None {
        // SAFETY: the VM is new: it has no vCPU and no slot, and is dropped if the
        // probe fails.
        unsafe { probe_abi(&vm, &SlotTable::new(), abi, 0, None) }
            .map_err(|why| KvmError::Abi(abi, why))?;
    }
    Ok(vm)
}

/// Opens the device of KVM.
pub(crate) fn open(path: &Path) -> Result<KvmDevice, KvmError> {
    let unopened = |error| KvmError::Open(path.to_path_buf(), error);
    // Opened here first for the error's text: the call below has a number only.
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(unopened)?;
    let name = CString::new(path.as_os_str().as_bytes());
    let name = name.map_err(|e| unopened(e.into()))?;
    let kvm = KvmDevice::new_with_path(&*name);
    let kvm = kvm.map_err(|e| unopened(io::Error::from_raw_os_error(e.errno())))?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        _ => Err(KvmError::NotKvm(path.to_path_buf())),
    }
}

impl Platform for Kvm {
    type Vm = KvmVm;
    type Guest = VcpuGuest;

    fn name(&self) -> &'static str {
        "kvm"
    }

    fn kernel(&self) -> String {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        release.map_or_else(|_| "unknown".into(), |release| release.trim().to_string())
    }

    fn vm(&self) -> &KvmVm {
        &self.vm
    }

    fn abi(&self) -> AbiProfile {
        self.abi
    }

    fn physical_bits(&self) -> u32 {
        self.processor.physical_bits()
    }

    fn code(&self) -> Code {
        self.processor.code()
    }

    fn splits_accesses(&self) -> bool {
        Processor::SPLITS_ACCESSES
    }

    /// An anonymous file.
    fn device_file(&self, size: u64) -> Result<OwnedFd, Errno> {
        let file = memfd_create("device", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        ftruncate(&file, size).map_err(io::Error::from)?;
        Ok(file)
    }

    fn assigned(&self, bar: AssignedBar) -> Result<Option<BarWindow>, AssignError> {
        self.devices.bar(bar).map(Some)
    }

    fn start(&self, stub: &Stub) -> Result<VcpuGuest, GuestError> {
        let guest = VcpuGuest::new(self.vm.fd(), &self.processor, stub);
        guest.map_err(|errno| GuestError::Stopped(format!("it cannot be set up: {errno}")))
    }
}
