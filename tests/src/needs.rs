// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a hardware test needs of the machine that it runs on.

use std::collections::BTreeMap;
use std::path::Path;

use kvm_bindings::KVM_CAP_PRE_FAULT_MEMORY;
use kvm_slots::sim::VmType;
use kvm_slots::{AbiProfile, Capabilities, GuestMemfdFlags, Vm};
use vmm::backend::kvm::Kvm;
use vmm::machine::Machine;

use crate::peers::emulates_guest;
use crate::subject::{Real, Subject};

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// Something that a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A KVM that can be opened, and makes a VM.
    Kvm,
    /// A guest_memfd on a plain VM that the host can map.
    MappableGuestMemfd,
    /// A guest_memfd on a plain VM.
    GuestMemfd,
    /// The second version of the ioctl that sets memslots: without it there is
    /// no field to ask for a slot without a host address with.
    UserMemory2,
    /// Private pages: the type of VM that has them without hardware for it.
    PrivatePages,
    /// `KVM_PRE_FAULT_MEMORY`.
    PreFault,
    /// A processor that runs the guest, and no emulator.
    DirectGuest,
    /// A released kernel: no memslots without a host address. There is no way
    /// to ask; a kernel that has them is one that somebody has patched.
    NoHostlessSlots,
}

/// The machine that the tests run on, probed once.
#[derive(Clone, Debug)]
pub struct Host {
    /// What a plain VM can do, or why there is none.
    pub plain: Result<Capabilities, String>,
    /// What a VM with private pages can do, or why there is none.
    pub private: Result<Capabilities, String>,
    /// Whether plain VMs can pre-fault memory.
    pub pre_fault: bool,
    /// Whether KVM emulates the guest, or why nobody knows.
    pub emulates: Result<bool, String>,
    /// The kernel's release.
    pub kernel: String,
}

impl Host {
    /// Probes this machine.
    pub fn probe() -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let plain = Real::new(VmType::Plain, false);
        let private = Real::new(VmType::SwProtected, false);
        Self {
            pre_fault: plain.as_ref().is_ok_and(can_pre_fault),
            plain: plain.map(|vm| vm.capabilities()),
            private: private.map(|vm| vm.capabilities()),
            emulates: emulates_guest(),
            kernel: release.map_or_else(|_| "unknown".into(), |text| text.trim().into()),
        }
    }

    /// Why `need` is not met, or nothing if it is.
    pub fn lacks(&self, need: Need) -> Option<String> {
        let plain = match &self.plain {
            Ok(plain) => plain,
            Err(why) => return Some(why.clone()),
        };
        let wanted = GuestMemfdFlags::all();
        match need {
            Need::Kvm => None,
            Need::MappableGuestMemfd if plain.guest_memfd_flags.contains(wanted) => None,
            Need::MappableGuestMemfd => {
                let flags = plain.guest_memfd_flags;
                Some(format!(
                    "guest_memfd flags {wanted:?} are needed, the kernel has {flags:?}"
                ))
            }
            Need::GuestMemfd if plain.guest_memfd => None,
            Need::GuestMemfd => Some("the kernel has no guest_memfd for plain VMs".into()),
            Need::UserMemory2 if plain.user_memory2 => None,
            Need::UserMemory2 => Some("the kernel has no KVM_SET_USER_MEMORY_REGION2".into()),
            Need::PrivatePages => match &self.private {
                Ok(private) if private.memory_attributes != 0 => None,
                Ok(_) => Some("VMs of type 1 have no memory attributes".into()),
                Err(why) => Some(format!("there are no private pages: {why}")),
            },
            Need::PreFault if self.pre_fault => None,
            Need::PreFault => Some("the kernel has no KVM_CAP_PRE_FAULT_MEMORY".into()),
            Need::DirectGuest => match &self.emulates {
                Ok(false) => None,
                Ok(true) => Some("this KVM emulates every instruction of the guest".into()),
                Err(why) => Some(why.clone()),
            },
            Need::NoHostlessSlots => match self.kernel.contains("private-mmio") {
                true => Some(format!("{} is patched to have them", self.kernel)),
                false => None,
            },
        }
    }

    /// The capabilities by name, for reports.
    pub fn capabilities(&self) -> BTreeMap<&'static str, u64> {
        let Ok(plain) = &self.plain else {
            return BTreeMap::new();
        };
        BTreeMap::from([
            ("NR_MEMSLOTS", plain.nr_memslots.into()),
            ("USER_MEMORY2", plain.user_memory2.into()),
            ("READONLY_MEM", plain.readonly_mem.into()),
            ("GUEST_MEMFD", plain.guest_memfd.into()),
            ("GUEST_MEMFD_FLAGS", plain.guest_memfd_flags.bits()),
            ("MEMORY_ATTRIBUTES", plain.memory_attributes),
            ("MEMORY_FAULT_INFO", plain.memory_fault_info.into()),
        ])
    }
}

/// A VM of the real KVM for `machine`.
///
/// # Errors
/// Why there is none, in words.
pub fn kvm(machine: &Machine) -> Result<Kvm, String> {
    Kvm::new(machine, Path::new(DEVICE), AbiProfile::None).map_err(|error| error.to_string())
}

fn can_pre_fault(vm: &Real) -> bool {
    vm.vm().check_extension(KVM_CAP_PRE_FAULT_MEMORY) > 0
}
