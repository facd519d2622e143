// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A memslot and its encoding for the kernel.

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};

use crate::abi::AbiProfile;
use crate::push::PushedRange;
use crate::range::{SlotAccess, SlotBacking, SlotRange};
use crate::vm::caps::Capabilities;

/// A memslot's number in address space 0.
pub type SlotId = u16;

/// A memslot: a range of whole pages with a number.
///
/// A range that is mapped push-style ([`AbiProfile::Push`]) has a number too, but
/// KVM has no slot of that number. So all profiles share the planner, the order of
/// operations and the rollback.
///
/// Only the planner makes slots, from the ranges that the VMM passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub(crate) id: SlotId,
    /// Whole pages.
    pub(crate) range: SlotRange,
}

/// The encoding of a slot for a kernel.
#[derive(Debug)]
pub(crate) enum Encoding {
    Region2(kvm_userspace_memory_region2),
    Region1(kvm_userspace_memory_region),
    Pushed(PushedRange),
}

impl Slot {
    /// The number.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// The first guest-physical address, page aligned.
    pub fn gpa(&self) -> u64 {
        self.range.gpa()
    }

    /// The number of bytes, page aligned and not zero.
    pub fn size(&self) -> u64 {
        self.range.size()
    }

    /// Whether stores are direct too.
    pub fn access(&self) -> SlotAccess {
        self.range.access()
    }

    /// The memory that the guest reaches.
    pub fn backing(&self) -> &SlotBacking {
        self.range.backing()
    }

    /// Whether KVM logs which pages the guest writes.
    pub fn log_dirty(&self) -> bool {
        self.range.log_dirty()
    }

    /// The last guest-physical address.
    pub fn last(&self) -> u64 {
        self.range.last()
    }

    /// Whether KVM can change the slot's address and logging. KVM can only delete
    /// slots on files.
    pub fn is_mutable(&self) -> bool {
        matches!(self.backing(), SlotBacking::Host(_))
    }

    /// The names of the flags in the kernel's header, without their prefix. The flag
    /// of an ABI profile is `FD_OFFSET`.
    pub fn flag_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.log_dirty() {
            names.push("LOG_DIRTY_PAGES");
        }
        if self.access() == SlotAccess::ReadOnly {
            names.push("READONLY");
        }
        match self.backing() {
            SlotBacking::Host(_) => {}
            SlotBacking::GuestMemfd { .. } => names.push("GUEST_MEMFD"),
            SlotBacking::FdOffset(_) => names.push("FD_OFFSET"),
        }
        names
    }

    /// Encodes the slot for this kernel. `None` for a backing that the kernel does
    /// not support; the planner refuses those.
    #[inline]
    pub(crate) fn encoding(
        &self,
        capabilities: &Capabilities,
        abi: AbiProfile,
    ) -> Option<Encoding> {
        match self.backing() {
            SlotBacking::FdOffset(file) if abi == AbiProfile::Push => {
                Some(Encoding::Pushed(PushedRange {
                    gpa: self.gpa(),
                    size: self.size(),
                    file: file.slice().clone(),
                }))
            }
            _ if capabilities.user_memory2 => self.region2(abi).map(Encoding::Region2),
            _ => self.region1().map(Encoding::Region1),
        }
    }

    /// The argument of `KVM_SET_USER_MEMORY_REGION2` that creates the slot, moves it
    /// or changes its flags.
    fn region2(&self, abi: AbiProfile) -> Option<kvm_userspace_memory_region2> {
        let region = kvm_userspace_memory_region2 {
            slot: self.id.into(),
            flags: self.plain_flags(),
            guest_phys_addr: self.gpa(),
            memory_size: self.size(),
            userspace_addr: self.backing().host().map_or(0, |host| host.address()),
            ..Default::default()
        };
        match self.backing() {
            SlotBacking::Host(_) => Some(region),
            SlotBacking::GuestMemfd { file, .. } => Some(kvm_userspace_memory_region2 {
                flags: region.flags | KVM_MEM_GUEST_MEMFD,
                guest_memfd: raw_fd(file.fd()),
                guest_memfd_offset: file.offset(),
                ..region
            }),
            SlotBacking::FdOffset(file) => {
                let file = file.slice();
                abi.on_file(region, raw_fd(file.fd()), file.offset())
            }
        }
    }

    /// The argument of the older ioctl; `None` for a backing that it does not support.
    fn region1(&self) -> Option<kvm_userspace_memory_region> {
        let SlotBacking::Host(host) = self.backing() else {
            return None;
        };
        Some(kvm_userspace_memory_region {
            slot: self.id.into(),
            flags: self.plain_flags(),
            guest_phys_addr: self.gpa(),
            memory_size: self.size(),
            userspace_addr: host.address(),
        })
    }

    fn plain_flags(&self) -> u32 {
        let log = if self.log_dirty() {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        let readonly = match self.access() {
            SlotAccess::ReadOnly => KVM_MEM_READONLY,
            SlotAccess::ReadWrite => 0,
        };
        log | readonly
    }
}

/// The kernel's structs carry descriptors as unsigned numbers.
pub(crate) fn raw_fd(fd: i32) -> u32 {
    u32::from_ne_bytes(fd.to_ne_bytes())
}
