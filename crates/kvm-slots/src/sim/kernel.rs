// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated kernel and its capabilities.

use std::fmt;

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_GUEST_MEMFD, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MEMORY_ATTRIBUTES,
    KVM_CAP_MULTI_ADDRESS_SPACE, KVM_CAP_NR_MEMSLOTS, KVM_CAP_PRE_FAULT_MEMORY,
    KVM_CAP_READONLY_MEM, KVM_CAP_USER_MEMORY2,
};

use super::arch::{Arch, Rules};
use crate::abi::AbiProfile;
use crate::convert::Home;
use crate::dirty::vm::ManualProtect;
use crate::uapi::{
    KVM_BACKING_FD_VFIO_DMABUF, KVM_CAP_GUEST_MEMFD_FLAGS, KVM_CAP_MEM_BACKING_FD,
    MEMORY_ATTRIBUTE_PRIVATE,
};
use crate::vm::GuestMemfdFlags;
use guest_ranges::PageSize;

/// `KVM_DIRTY_RING_MAX_ENTRIES`, in bytes: 16 for each entry.
pub(super) const MAX_RING_BYTES: u32 = 65536 * 16;

/// The simulated kernels: the latest releases of long-term kernels whose checks were
/// read or run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KernelVersion {
    /// No `KVM_SET_USER_MEMORY_REGION2`, no guest_memfd.
    V6_1,
    /// guest_memfd for private memory only.
    V6_12,
    /// guest_memfd on plain VMs too, and mappable.
    V6_18,
    /// As 6.18; a file range bound twice is EEXIST.
    V7_3,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_18 => "6.18",
            Self::V7_3 => "7.3",
        })
    }
}

/// The type of VM, as `KVM_CREATE_VM` takes it.
// Exhaustive: a test expects something of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmType {
    /// An ordinary VM.
    Plain,
    /// A software-protected VM: private pages without hardware for it. Not every
    /// architecture has them.
    SwProtected,
}

/// A kernel and a VM on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// The architecture of the machine.
    pub arch: Arch,
    /// The kernel.
    pub kernel: KernelVersion,
    /// The page size of that kernel. With smaller pages than those of the machine
    /// that runs the simulation, some simulated guest_memfds cannot be mapped.
    pub page_size: PageSize,
    /// Whether that kernel was built with memory attributes
    /// (`CONFIG_KVM_SW_PROTECTED_VM`). Distributions' kernels are not. On 6.12
    /// guest_memfd comes with the same option.
    pub private_pages: bool,
    /// Where that kernel keeps which pages of a VM with private memory are private:
    /// [`Home::VmAttributes`] in released kernels. [`Home::FileAttributes`] and
    /// [`Home::Platform`] have none of the VM's attributes, and are for the newest kernel.
    pub home: Home,
    /// Whether that kernel was built with system management mode
    /// (`CONFIG_KVM_SMM`): plain VMs then have a second address space.
    pub smm: bool,
    /// Whether the processor walks a second page table for the guest (EPT,
    /// NPT). Without it there is no pre-faulting, and slots may lie anywhere
    /// below 2^52.
    pub two_dimensional_paging: bool,
    /// Whether KVM emulates every instruction of the guest, as backends
    /// without hardware virtualization may: all accesses then go by way of
    /// host addresses, and where there is no memory at one, they are exits.
    pub emulates_guest: bool,
    /// The type of VM.
    pub vm_type: VmType,
    /// The ABI of the kernel's patch for slots without a host address, or none.
    pub abi: AbiProfile,
    /// The width of the guest's physical addresses, in bits.
    pub physical_bits: u32,
    /// `KVM_CAP_NR_MEMSLOTS`.
    pub nr_memslots: u16,
    /// Whether the kernel writes to guest memory without a vCPU
    /// (`CONFIG_NEED_KVM_DIRTY_RING_WITH_BITMAP`): dirty rings then exist from 6.3 on,
    /// by their newer name only, and need a log beside them.
    pub ring_needs_log: bool,
    /// With [`AbiProfile::Push`]: the guest validates each mapping before it can reach
    /// the memory, by exits of the kind with this number, and releases it. `None`: the
    /// platform maps and unmaps immediately.
    pub push_validates: Option<u64>,
}

impl SimConfig {
    /// A plain VM on a released kernel with the configuration of distributions,
    /// on the default architecture.
    pub fn released(kernel: KernelVersion) -> Self {
        Self {
            arch: Arch::default(),
            kernel,
            page_size: PageSize::Size4K,
            private_pages: false,
            home: Home::VmAttributes,
            smm: true,
            two_dimensional_paging: true,
            emulates_guest: false,
            vm_type: VmType::Plain,
            abi: AbiProfile::None,
            physical_bits: 46,
            nr_memslots: 32764,
            ring_needs_log: false,
            push_validates: None,
        }
    }

    pub(super) fn rules(&self) -> Rules {
        self.arch.rules()
    }

    pub(crate) fn has_region2(&self) -> bool {
        self.kernel >= KernelVersion::V6_12
    }

    /// `kvm_arch_has_private_mem` for this VM.
    pub(crate) fn has_private_memory(&self) -> bool {
        self.rules().private_memory && self.vm_type == VmType::SwProtected
    }

    pub(crate) fn has_guest_memfd(&self) -> bool {
        match self.kernel {
            KernelVersion::V6_1 => false,
            KernelVersion::V6_12 => self.has_attributes() && self.has_private_memory(),
            KernelVersion::V6_18 | KernelVersion::V7_3 => true,
        }
    }

    pub(crate) fn guest_memfd_flags(&self) -> GuestMemfdFlags {
        match self.has_guest_memfd() && self.kernel >= KernelVersion::V6_18 {
            false => GuestMemfdFlags::empty(),
            // Only pages that can change back may be shared at first.
            true if self.has_private_memory() && self.home != Home::FileAttributes => {
                GuestMemfdFlags::MMAP
            }
            true => GuestMemfdFlags::all(),
        }
    }

    /// `KVM_SET_MEMORY_ATTRIBUTES` came with the newer memslot ioctl.
    pub(crate) fn has_attributes(&self) -> bool {
        self.rules().private_memory
            && self.private_pages
            && self.home == Home::VmAttributes
            && self.has_region2()
    }

    /// `KVM_SET_MEMORY_ATTRIBUTES2` on this VM's guest_memfds: the supported attributes;
    /// `None` if there is no such ioctl.
    pub(crate) fn file_attributes(&self) -> Option<u64> {
        let private = match self.has_private_memory() {
            true => MEMORY_ATTRIBUTE_PRIVATE,
            false => 0,
        };
        (self.home == Home::FileAttributes).then_some(private)
    }

    pub(crate) fn attributes(&self) -> u64 {
        match self.has_attributes() && self.has_private_memory() {
            true => MEMORY_ATTRIBUTE_PRIVATE,
            false => 0,
        }
    }

    /// Whether `KVM_CREATE_GUEST_MEMFD` is built in.
    pub(crate) fn knows_guest_memfd(&self) -> bool {
        match self.kernel {
            KernelVersion::V6_1 => false,
            KernelVersion::V6_12 => self.has_attributes(),
            KernelVersion::V6_18 | KernelVersion::V7_3 => true,
        }
    }

    /// Whether there are dirty rings.
    pub(super) fn has_ring(&self) -> bool {
        !self.ring_needs_log || self.kernel > KernelVersion::V6_1
    }

    /// `KVM_PRE_FAULT_MEMORY` came with 6.11.
    pub(crate) fn knows_pre_fault(&self) -> bool {
        self.rules().pre_fault && self.kernel >= KernelVersion::V6_12
    }

    /// The number of address spaces: two with SMM, but private VMs have no SMM.
    pub(crate) fn address_spaces(&self) -> u32 {
        let has_two = self.rules().second_address_space && self.smm;
        match has_two && !self.has_private_memory() {
            true => 2,
            false => 1,
        }
    }

    /// Slots end below 2 to the power of this (`kvm_mmu_max_gfn`).
    pub(crate) fn slot_bits(&self) -> u32 {
        match self.two_dimensional_paging {
            true => self.physical_bits,
            false => 52,
        }
    }

    /// `KVM_CHECK_EXTENSION` on `/dev/kvm`. Some capabilities differ from those of a
    /// VM, as no VM limits them.
    pub fn device_extension(&self, capability: u32) -> i32 {
        let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        match capability {
            KVM_CAP_MULTI_ADDRESS_SPACE if self.rules().second_address_space => {
                1 + i32::from(self.smm)
            }
            KVM_CAP_MEMORY_ATTRIBUTES if self.has_attributes() => number(MEMORY_ATTRIBUTE_PRIVATE),
            KVM_CAP_GUEST_MEMFD => self.knows_guest_memfd().into(),
            KVM_CAP_GUEST_MEMFD_FLAGS if self.kernel >= KernelVersion::V6_18 => {
                number(GuestMemfdFlags::all().bits())
            }
            _ => self.check_extension(capability),
        }
    }

    /// The VM that `KVM_CREATE_VM` makes on this kernel with the type of this number,
    /// if there is such a type.
    pub(super) fn with_type(self, number: u64) -> Option<Self> {
        (self.rules().vm_of_type)(self, number)
    }

    /// `KVM_CHECK_EXTENSION`.
    pub(crate) fn check_extension(&self, capability: u32) -> i32 {
        let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        if let Some(value) = (self.rules().capability)(self, capability) {
            return value;
        }
        match capability {
            KVM_CAP_NR_MEMSLOTS => self.nr_memslots.into(),
            KVM_CAP_READONLY_MEM => 1,
            KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => number(ManualProtect::all().bits()),
            // Without the need for a log, the ring has both names.
            KVM_CAP_DIRTY_LOG_RING if self.ring_needs_log => 0,
            KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL if self.has_ring() => {
                number(MAX_RING_BYTES.into())
            }
            KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP => (self.ring_needs_log && self.has_ring()).into(),
            KVM_CAP_USER_MEMORY2 => self.has_region2().into(),
            KVM_CAP_GUEST_MEMFD => self.has_guest_memfd().into(),
            KVM_CAP_GUEST_MEMFD_FLAGS => number(self.guest_memfd_flags().bits()),
            KVM_CAP_MEMORY_ATTRIBUTES => number(self.attributes()),
            KVM_CAP_PRE_FAULT_MEMORY => {
                (self.knows_pre_fault() && self.two_dimensional_paging).into()
            }
            KVM_CAP_MEM_BACKING_FD => match self.abi {
                AbiProfile::FD_OFFSET_BIT_4 => number(KVM_BACKING_FD_VFIO_DMABUF.into()),
                _ => 0,
            },
            _ => 0,
        }
    }
}

impl fmt::Display for SimConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated {}", self.kernel)?;
        if self.arch != Arch::default() {
            write!(f, " for {}", self.arch)?;
        }
        if self.page_size != PageSize::Size4K {
            write!(f, ", pages of {}", self.page_size)?;
        }
        if self.has_private_memory() {
            write!(f, ", private pages")?;
        }
        if self.home != Home::VmAttributes {
            write!(f, ", state in {}", self.home)?;
        }
        match self.abi {
            AbiProfile::None => Ok(()),
            abi => write!(f, ", slots by {abi}"),
        }
    }
}
