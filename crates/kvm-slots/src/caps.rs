// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VM's kernel can do with memory.

use kvm_bindings::{
    KVM_CAP_GUEST_MEMFD, KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_MEMORY_FAULT_INFO, KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_READONLY_MEM, KVM_CAP_USER_MEMORY2,
};

use crate::uapi::KVM_CAP_GUEST_MEMFD_FLAGS;
use crate::vm::{GuestMemfdFlags, Vm};

/// What a VM of one type on one kernel can do. Asked of the VM and not of
/// `/dev/kvm`, because the answers differ by type of VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The host's page size in bytes: the granularity of memslots.
    pub page_size: u64,
    /// How many memslots userspace may have (`KVM_CAP_NR_MEMSLOTS`).
    pub nr_memslots: u32,
    /// `KVM_SET_USER_MEMORY_REGION2` exists (Linux 6.8).
    pub user_memory2: bool,
    /// Read-only slots exist.
    pub readonly_mem: bool,
    /// A VM of this type can have a guest_memfd.
    pub guest_memfd: bool,
    /// The flags that a guest_memfd can be made with.
    pub guest_memfd_flags: GuestMemfdFlags,
    /// The attributes that pages can have; 0 if none.
    pub memory_attributes: u64,
    /// Faults that the VMM is to resolve come with their address.
    pub memory_fault_info: bool,
    /// Memory can be mapped without a memslot ([`Vm::push_map`]).
    pub push_map: bool,
    /// How many bits a guest-physical address has ([`Vm::address_bits`]); `None`
    /// if that is not known. Ranges beyond are refused before KVM is asked.
    pub address_bits: Option<u32>,
}

impl Capabilities {
    /// The least that a kernel has: 32 slots of host memory, and nothing more.
    /// To plan for a VM that is not there, set the fields.
    pub fn minimal() -> Self {
        Self {
            page_size: host_page_size(),
            nr_memslots: 32,
            user_memory2: false,
            readonly_mem: false,
            guest_memfd: false,
            guest_memfd_flags: GuestMemfdFlags::empty(),
            memory_attributes: 0,
            memory_fault_info: false,
            push_map: false,
            address_bits: None,
        }
    }

    /// Asks `vm`.
    pub fn probe(vm: &impl Vm) -> Self {
        // Negative answers are errors of the question itself: no such thing.
        let ask = |capability| u32::try_from(vm.check_extension(capability)).unwrap_or(0);
        Self {
            page_size: host_page_size(),
            // The API documentation: 32 where the extension is not reported.
            nr_memslots: match ask(KVM_CAP_NR_MEMSLOTS) {
                0 => 32,
                n => n,
            },
            user_memory2: ask(KVM_CAP_USER_MEMORY2) > 0,
            readonly_mem: ask(KVM_CAP_READONLY_MEM) > 0,
            guest_memfd: ask(KVM_CAP_GUEST_MEMFD) > 0,
            guest_memfd_flags: GuestMemfdFlags::from_bits_truncate(
                ask(KVM_CAP_GUEST_MEMFD_FLAGS).into(),
            ),
            memory_attributes: ask(KVM_CAP_MEMORY_ATTRIBUTES).into(),
            memory_fault_info: ask(KVM_CAP_MEMORY_FAULT_INFO) > 0,
            push_map: vm.push_map().is_some(),
            address_bits: vm.address_bits(),
        }
    }
}

pub(crate) fn host_page_size() -> u64 {
    // SAFETY: `sysconf` only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}
