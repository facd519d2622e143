// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a hardware test needs of the machine that it runs on.

use std::collections::BTreeMap;
use std::path::Path;

use kvm_slots::{AbiProfile, Capabilities, GuestMemfdFlags};
use vmm::backend::Platform;
use vmm::backend::kvm::Kvm;
use vmm::machine::Machine;

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// Something that a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A KVM that can be opened, and makes a VM.
    Kvm,
    /// A guest_memfd on a plain VM that the host can map.
    MappableGuestMemfd,
    /// The second version of the ioctl that sets memslots: without it there is
    /// no field to ask for a slot without a host address with.
    UserMemory2,
    /// A released kernel: no memslots without a host address. A patched one
    /// is told by its name, because what would find out is itself under test.
    NoHostlessSlots,
}

/// The machine that the tests run on, probed once.
#[derive(Clone, Debug)]
pub struct Host {
    /// What a plain VM can do, or why there is none.
    pub plain: Result<Capabilities, String>,
    /// The kernel's release.
    pub kernel: String,
}

impl Host {
    /// Probes this machine.
    pub fn probe() -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let kvm = kvm(&empty());
        Self {
            plain: kvm.map(|kvm| Capabilities::probe(kvm.vm())),
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
            Need::UserMemory2 if plain.user_memory2 => None,
            Need::UserMemory2 => Some("the kernel has no KVM_SET_USER_MEMORY_REGION2".into()),
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

/// A machine without anything.
fn empty() -> Machine {
    Machine {
        name: "empty".into(),
        regions: Vec::new(),
        steps: Vec::new(),
    }
}
