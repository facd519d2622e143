// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a hardware test needs of the machine.

use std::collections::BTreeMap;
use std::path::Path;

use guest_ranges::PageSize;
use kvm_bindings::{KVM_CAP_EXIT_HYPERCALL, KVM_CAP_PRE_FAULT_MEMORY};
use kvm_slots::convert::Home;
use kvm_slots::dirty::{DirtyCapabilities, ManualProtect};
use kvm_slots::sim::VmType;
use kvm_slots::uapi::pre_fault_memory;
use kvm_slots::{AbiProfile, Capabilities, Errno, GuestMemfdFlags, Vm};
use vfio_private::device::VfioInterface;
use vmm::backend::Platform;
use vmm::backend::kvm::Kvm;
use vmm::machine::{Machine, OnMemoryFault};

use crate::backends::emulates_guest;
use crate::subject::{Expected, Real, Subject, host_page_size, host_pages};
use crate::vfio::Model;

/// The path of KVM's device.
pub const DEVICE: &str = "/dev/kvm";

/// Something that a test requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A KVM that can be opened and creates a VM.
    Kvm,
    /// A KVM, and [guests](crate::vcpu) for this architecture.
    Vcpus,
    /// A guest_memfd on a plain VM that the host can map
    /// (`GUEST_MEMFD_FLAG_MMAP`).
    MappableGuestMemfd,
    /// A guest_memfd on a plain VM.
    GuestMemfd,
    /// A KVM whose slots have no guest_memfd that the host cannot map.
    MappableFilesOnly,
    /// `KVM_SET_USER_MEMORY_REGION2`. The older ioctl has no fields for a slot
    /// without a host address.
    UserMemory2,
    /// VMs with private pages that need no special hardware
    /// (`KVM_X86_SW_PROTECTED_VM`).
    PrivatePages,
    /// The same, wherever the state of their pages is.
    ConvertiblePages,
    /// VMs with private pages whose guest_memfds have the attributes of their pages
    /// (`KVM_SET_MEMORY_ATTRIBUTES2`).
    FileAttributes,
    /// The lab's patches for these, which have numbers of their own.
    LabFileAttributes,
    /// A kernel that knows the state of an address without a memslot, if it knows any:
    /// attributes of files say nothing about one.
    NoFileAttributes,
    /// Hypercalls of VMs with private pages that the VMM answers
    /// (`KVM_CAP_EXIT_HYPERCALL`).
    HypercallExits,
    /// A processor that runs the guest directly, without an emulator.
    DirectGuest,
    /// A released kernel, without memslots on a backing fd. The kernel's name
    /// tells a patched one, because the probe is itself under test.
    NoBackingFd,
    /// A kernel with this project's patch: memslots on a backing fd, without a
    /// host address.
    BackingFd,
    /// Dirty logs that are cleared by a call of their own.
    ManualProtect,
    /// Dirty rings, with or without a log beside them.
    DirtyRing,
    /// The kernel has `KVM_PRE_FAULT_MEMORY`, and this KVM can do it: with shadow
    /// page tables, it fails although its capability is 1.
    PreFault,
    /// Guest memory cannot be mapped before the guest accesses it.
    NoPreFault,
    /// As many processors.
    Processors(usize),
    /// Pre-faulting ends when its slot is deleted. Linux 6.12 was seen to
    /// continue forever without a way to stop it, and so was 7.3, about once in
    /// ten times.
    PreFaultEnds,
    /// An interface by which VFIO opens devices.
    VfioInterface(VfioInterface),
    /// A device that is bound to vfio-pci.
    Vfio(Model),
    /// A host with pages of this size.
    HostPages(PageSize),
    /// The program `vmm` and a Linux that it can boot.
    LinuxGuest,
    /// The kernel of confidential guests.
    ConfidentialGuest,
    /// A KVM that runs the code of a kernel.
    KernelCode,
    /// The selftests of the kernel's source.
    Selftests,
}

/// The needs that an environment of the lab can be required to meet, by name.
const REQUIRABLE: [(&str, &[Need]); 6] = [
    ("kvm", &[Need::Kvm, Need::Vcpus]),
    ("guest-memfd", &[Need::MappableGuestMemfd]),
    ("private-pages", &[Need::PrivatePages]),
    ("convertible-pages", &[Need::ConvertiblePages]),
    (
        "vfio",
        &[
            Need::VfioInterface(VfioInterface::LegacyGroup),
            Need::Vfio(Model::E1000e),
            Need::Vfio(Model::Edu),
            Need::Vfio(Model::Ivshmem),
            Need::Vfio(Model::Nvme),
            Need::Vfio(Model::TestDev),
        ],
    ),
    ("vfio-cdev", &[Need::VfioInterface(VfioInterface::Cdev)]),
];

/// The needs that a list of names requires. The names are separated by commas.
///
/// # Errors
/// A name is not known.
pub fn required(names: &str) -> Result<Vec<Need>, String> {
    let mut needs = Vec::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let found = REQUIRABLE.iter().find(|(known, _)| *known == name);
        let (_, found) = found.ok_or_else(|| format!("there is no need '{name}' to require"))?;
        needs.extend(*found);
    }
    Ok(needs)
}

/// What becomes of a test whose needs are not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// It is skipped, for this reason.
    Skip(String),
    /// It fails, because its environment must meet the need.
    Fail(String),
}

/// What becomes of a test with these needs, if one of them is not met. `lacks` tells
/// why a need is not.
pub fn unmet(
    needs: &[Need],
    required: &[Need],
    lacks: impl Fn(Need) -> Option<String>,
) -> Option<Unmet> {
    let mut musts = needs.iter().filter(|need| required.contains(need));
    if let Some(why) = musts.find_map(|need| lacks(*need)) {
        return Some(Unmet::Fail(format!("this environment must have it: {why}")));
    }
    needs.iter().find_map(|need| lacks(*need)).map(Unmet::Skip)
}

/// The machine that the tests run on, probed once.
#[derive(Clone, Debug)]
pub struct Host {
    /// What a plain VM can do, or why there is none.
    pub plain: Result<Plain, String>,
    /// What a VM with private pages can do, or why there is none.
    pub private: Result<Capabilities, String>,
    /// Where such a VM's pages have their state, or why that is unknown.
    pub home: Result<Home, String>,
    /// Whether such a VM has `KVM_CAP_EXIT_HYPERCALL`.
    pub hypercall_exits: bool,
    /// Whether KVM emulates the guest, or why that is unknown.
    pub emulates: Result<bool, String>,
    /// The kernel's release.
    pub kernel: String,
}

/// What a plain VM can do.
#[derive(Clone, Debug)]
pub struct Plain {
    /// The capabilities.
    pub capabilities: Capabilities,
    /// The capabilities for dirty tracking.
    pub dirty: DirtyCapabilities,
    /// `KVM_CAP_PRE_FAULT_MEMORY`.
    pub pre_fault: bool,
    /// The error of `KVM_PRE_FAULT_MEMORY` where the VM has no memory.
    pub pre_faulting: Option<Errno>,
}

impl Host {
    /// Probes this machine.
    pub fn probe() -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let plain = Real::new(VmType::Plain, false);
        let private = Real::new(VmType::SwProtected, false);
        let exits = |vm: &Real| vm.vm().check_extension(KVM_CAP_EXIT_HYPERCALL) > 0;
        Self {
            hypercall_exits: private.as_ref().is_ok_and(exits),
            home: match &private {
                Ok(private) => Home::probe(private.vm()).map_err(|e| format!("the home: {e}")),
                Err(why) => Err(why.clone()),
            },
            plain: plain.map(|plain| {
                let vm = plain.vm();
                Plain {
                    capabilities: plain.capabilities(),
                    dirty: DirtyCapabilities::probe(vm),
                    pre_fault: vm.check_extension(KVM_CAP_PRE_FAULT_MEMORY) > 0,
                    pre_faulting: pre_faulting(),
                }
            }),
            private: private.map(|vm| vm.capabilities()),
            emulates: emulates_guest(),
            kernel: release.map_or_else(|_| "unknown".into(), |text| text.trim().into()),
        }
    }

    /// Why `need` is not met, or nothing if it is.
    pub fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::VfioInterface(way) => return crate::vfio::lacks_way(way),
            Need::Vfio(model) => return model.bound().err(),
            Need::HostPages(size) => return lacks_pages(size),
            Need::LinuxGuest => return crate::boot::lacks_guest(),
            Need::ConfidentialGuest => return crate::boot::lacks_confidential_guest(),
            Need::KernelCode => return crate::boot::lacks_kernel_code(),
            Need::Selftests => return crate::selftests::lacks_programs(),
            Need::Vcpus => return crate::vcpu::lacks(),
            _ => {}
        }
        let (plain, dirty, pre_fault) = match &self.plain {
            Ok(can) => (&can.capabilities, &can.dirty, can.pre_fault),
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
            Need::MappableFilesOnly if Expected::HERE.unmappable_files => {
                Some("slots can have a guest_memfd that the host cannot map".into())
            }
            Need::MappableFilesOnly => None,
            Need::UserMemory2 if plain.user_memory2 => None,
            Need::UserMemory2 => Some("the kernel has no KVM_SET_USER_MEMORY_REGION2".into()),
            Need::PrivatePages => match &self.private {
                Ok(private) if private.memory_attributes != 0 => None,
                Ok(_) => Some("VMs of type 1 have no memory attributes".into()),
                Err(why) => Some(format!("there are no private pages: {why}")),
            },
            Need::ConvertiblePages => match &self.home {
                Ok(home) if home.has_private_pages() => None,
                Ok(home) => Some(format!("the state of pages is in {home}")),
                Err(why) => Some(why.clone()),
            },
            Need::FileAttributes => self.lacks_file_attributes(),
            Need::NoFileAttributes => match self.lacks_file_attributes() {
                None => Some("guest_memfds have the attributes of their pages".into()),
                Some(_) => None,
            },
            Need::LabFileAttributes if self.has_lab_file_attributes() => None,
            Need::LabFileAttributes => Some(format!("{} is not patched", self.kernel)),
            Need::HypercallExits if self.hypercall_exits => None,
            Need::HypercallExits => Some("KVM_CAP_EXIT_HYPERCALL is 0".into()),
            Need::DirectGuest => match &self.emulates {
                Ok(false) => None,
                Ok(true) => Some("this KVM emulates every instruction of the guest".into()),
                Err(why) => Some(why.clone()),
            },
            Need::NoBackingFd => match self.kernel.contains("private-mmio") {
                true => Some(format!("{} is patched to have them", self.kernel)),
                false => None,
            },
            Need::BackingFd => match self.kernel.contains("private-mmio") {
                true => None,
                false => Some(format!("{} is not patched to have them", self.kernel)),
            },
            Need::ManualProtect if dirty.manual_protect == ManualProtect::all() => None,
            Need::ManualProtect => Some(format!(
                "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is {:?}",
                dirty.manual_protect
            )),
            Need::DirtyRing if dirty.ring_bytes == 0 => Some("no dirty rings".into()),
            Need::DirtyRing => None,
            Need::PreFault if pre_fault => match &self.plain {
                Ok(can) if can.pre_faulting == Some(Errno::EOPNOTSUPP) => {
                    Some("KVM_PRE_FAULT_MEMORY fails with EOPNOTSUPP".into())
                }
                _ => None,
            },
            Need::PreFault => Some("KVM_CAP_PRE_FAULT_MEMORY is 0".into()),
            Need::NoPreFault if pre_fault => Some("KVM_CAP_PRE_FAULT_MEMORY is 1".into()),
            Need::PreFaultEnds => match version(&self.kernel) {
                Some(version) if version > (7, 3) => None,
                _ => Some(format!("Linux {} may pre-fault for ever", self.kernel)),
            },
            Need::Processors(count) => {
                let has = std::thread::available_parallelism().map_or(1, usize::from);
                (has < count).then(|| format!("{count} processors are needed, there are {has}"))
            }
            Need::NoPreFault | Need::VfioInterface(_) | Need::Vfio(_) => None,
            Need::HostPages(_) | Need::LinuxGuest | Need::ConfidentialGuest => None,
            Need::KernelCode | Need::Selftests | Need::Vcpus => None,
        }
    }

    /// The kernel's name tells, because the probe is itself under test.
    fn has_lab_file_attributes(&self) -> bool {
        self.kernel.contains("gmem-attributes")
    }

    fn lacks_file_attributes(&self) -> Option<String> {
        match &self.home {
            Ok(Home::FileAttributes) => None,
            _ if self.has_lab_file_attributes() => None,
            Ok(home) => Some(format!("the state of pages is in {home}")),
            Err(why) => Some(why.clone()),
        }
    }

    /// The capabilities by name, for reports.
    pub fn capabilities(&self) -> BTreeMap<&'static str, u64> {
        let Ok(can) = &self.plain else {
            return BTreeMap::new();
        };
        let (plain, dirty) = (&can.capabilities, &can.dirty);
        BTreeMap::from([
            ("NR_MEMSLOTS", plain.nr_memslots.into()),
            ("USER_MEMORY2", plain.user_memory2.into()),
            ("READONLY_MEM", plain.readonly_mem.into()),
            ("GUEST_MEMFD", plain.guest_memfd.into()),
            ("GUEST_MEMFD_FLAGS", plain.guest_memfd_flags.bits()),
            ("MEMORY_ATTRIBUTES", plain.memory_attributes),
            ("MEMORY_FAULT_INFO", plain.memory_fault_info.into()),
            ("MANUAL_DIRTY_LOG_PROTECT2", dirty.manual_protect.bits()),
            ("DIRTY_LOG_RING", dirty.ring_bytes.into()),
            ("DIRTY_LOG_RING_WITH_BITMAP", dirty.ring_needs_log.into()),
            ("PRE_FAULT_MEMORY", can.pre_fault.into()),
        ])
    }
}

/// Why this host's pages have another size, or nothing if they have this one.
fn lacks_pages(size: PageSize) -> Option<String> {
    let kib = |size: PageSize| size.bytes() >> 10;
    let has = host_pages();
    (has != size).then(|| {
        format!(
            "pages of {} KiB are needed, the host's have {} KiB",
            kib(size),
            kib(has)
        )
    })
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// A VM of the real KVM for `machine`.
///
/// # Errors
/// A message that says why there is none.
pub fn kvm(machine: &Machine) -> Result<Kvm, String> {
    Kvm::new(machine, Path::new(DEVICE), AbiProfile::None).map_err(|error| error.to_string())
}

/// The error of pre-faulting in a VM without memory.
fn pre_faulting() -> Option<Errno> {
    let vcpu = kvm(&empty()).ok()?.vm().fd().create_vcpu(0).ok()?;
    Some(pre_fault_memory(&vcpu, 0, host_page_size()).err()?.errno)
}

/// A machine without regions and steps.
pub fn empty() -> Machine {
    Machine {
        name: "empty".into(),
        regions: Vec::new(),
        steps: Vec::new(),
        on_memory_fault: OnMemoryFault::Report,
        plain_vm: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: [Need; 3] = [Need::DirtyRing, Need::Kvm, Need::PrivatePages];

    fn without(lacking: &[Need], required: &[Need]) -> Option<Unmet> {
        let lacks = |need| lacking.contains(&need).then(|| format!("no {need:?}"));
        unmet(&NEEDS, required, lacks)
    }

    #[test]
    fn a_test_whose_needs_are_met_runs() {
        assert_eq!(without(&[], &NEEDS), None);
        assert_eq!(without(&[Need::BackingFd], &NEEDS), None);
    }

    #[test]
    fn a_need_that_is_not_met_skips_a_test_unless_the_environment_must_meet_it() {
        let skipped = Some(Unmet::Skip("no Kvm".into()));
        assert_eq!(without(&[Need::Kvm], &[Need::PrivatePages]), skipped);
        let failed = Some(Unmet::Fail("this environment must have it: no Kvm".into()));
        assert_eq!(without(&[Need::Kvm], &[Need::Kvm]), failed);
        // Another need that is not met either does not hide it.
        assert_eq!(without(&NEEDS, &[Need::Kvm]), failed);
    }

    #[test]
    fn required_needs_are_named() {
        let needs = required("kvm,vfio-cdev").expect("known");
        let cdev = Need::VfioInterface(VfioInterface::Cdev);
        assert_eq!(needs, [Need::Kvm, Need::Vcpus, cdev]);
        assert_eq!(required(""), Ok(Vec::new()));
        let error = required("kvm,sgx").expect_err("there is none");
        assert!(error.contains("'sgx'"), "{error}");
    }
}
