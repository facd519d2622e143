// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A memslot, and how the kernel is told of it.

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};

use crate::AbiProfile;
use crate::range::{Backing, FileStart, SlotAccess};

/// A memslot's number in address space 0.
pub type SlotId = u16;

/// A memslot: page aligned, with a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The number.
    pub id: SlotId,
    /// The first guest-physical address, page aligned.
    pub gpa: u64,
    /// The number of bytes, page aligned and not zero.
    pub size: u64,
    /// Whether stores are direct too.
    pub access: SlotAccess,
    /// The bytes that the guest reaches.
    pub backing: Backing,
    /// Whether KVM logs which pages the guest writes.
    pub log_dirty: bool,
}

impl Slot {
    /// The last guest-physical address.
    pub fn last(&self) -> u64 {
        self.gpa + (self.size - 1)
    }

    /// Whether KVM lets the slot change its address or its logging. Slots on
    /// files can only be deleted.
    pub fn is_mutable(&self) -> bool {
        matches!(self.backing, Backing::Host(_))
    }

    /// The flags by the names of the kernel's header, without their prefix.
    /// The one of an ABI profile has the profile's name.
    pub fn flag_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.log_dirty {
            names.push("LOG_DIRTY_PAGES");
        }
        if self.access == SlotAccess::ReadOnly {
            names.push("READONLY");
        }
        match self.backing {
            Backing::Host(_) => {}
            Backing::GuestMemfd { .. } => names.push("GUEST_MEMFD"),
            Backing::FdOffset(_) => names.push("FD_OFFSET"),
        }
        names
    }

    /// What `KVM_SET_USER_MEMORY_REGION2` takes to create the slot, or to move
    /// it or change its flags. `None` for a backing that the profile has no
    /// slot for; the planner has refused those.
    pub(crate) fn region2(&self, abi: AbiProfile) -> Option<kvm_userspace_memory_region2> {
        let mut region = kvm_userspace_memory_region2 {
            slot: self.id.into(),
            flags: self.plain_flags(),
            guest_phys_addr: self.gpa,
            memory_size: self.size,
            userspace_addr: self.backing.host().map_or(0, |host| host.address()),
            ..Default::default()
        };
        match (&self.backing, abi) {
            (Backing::Host(_), _) => {}
            (Backing::GuestMemfd { file, .. }, _) => {
                region.flags |= KVM_MEM_GUEST_MEMFD;
                region.guest_memfd = descriptor(file);
                region.guest_memfd_offset = file.offset();
            }
            (Backing::FdOffset(file), AbiProfile::FdOffset { flag }) => {
                region.flags |= flag;
                region.pad1 = descriptor(file);
                region.pad2[0] = file.offset();
            }
            (Backing::FdOffset(_), AbiProfile::None) => return None,
        }
        Some(region)
    }

    /// What the older ioctl takes; `None` for a backing that it cannot name.
    pub(crate) fn region1(&self) -> Option<kvm_userspace_memory_region> {
        let Backing::Host(host) = &self.backing else {
            return None;
        };
        Some(kvm_userspace_memory_region {
            slot: self.id.into(),
            flags: self.plain_flags(),
            guest_phys_addr: self.gpa,
            memory_size: self.size,
            userspace_addr: host.address(),
        })
    }

    fn plain_flags(&self) -> u32 {
        let log = if self.log_dirty {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        let readonly = match self.access {
            SlotAccess::ReadOnly => KVM_MEM_READONLY,
            SlotAccess::ReadWrite => 0,
        };
        log | readonly
    }
}

/// The kernel's structs carry descriptors as unsigned numbers.
fn descriptor(file: &FileStart) -> u32 {
    u32::from_ne_bytes(file.fd().to_ne_bytes())
}
