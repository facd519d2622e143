// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The capabilities of a VM's kernel for memory.

use guest_ranges::PageSize;
use kvm_bindings::{
    KVM_CAP_GUEST_MEMFD, KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_MEMORY_FAULT_INFO, KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_READONLY_MEM, KVM_CAP_USER_MEMORY2,
};

use crate::uapi::KVM_CAP_GUEST_MEMFD_FLAGS;
use crate::vm::address_bits::AddressBits;
use crate::vm::{GuestMemfdFlags, Vm};

/// The capabilities of a VM of one type on one kernel. They come from the VM and
/// not from `/dev/kvm`, because they differ by type of VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The host's page size: the granularity of memslots, of memory attributes and of
    /// dirty logs.
    pub page_size: PageSize,
    /// The maximum number of memslots (`KVM_CAP_NR_MEMSLOTS`).
    pub nr_memslots: u32,
    /// Whether `KVM_SET_USER_MEMORY_REGION2` exists (Linux 6.8).
    pub user_memory2: bool,
    /// Whether read-only slots exist.
    pub readonly_mem: bool,
    /// Whether a VM of this type can have a guest_memfd.
    pub guest_memfd: bool,
    /// The supported flags of a guest_memfd.
    pub guest_memfd_flags: GuestMemfdFlags,
    /// The supported attributes of pages; 0 if there are none.
    pub memory_attributes: u64,
    /// Whether memory faults are reported with their address
    /// (`KVM_CAP_MEMORY_FAULT_INFO`).
    pub memory_fault_info: bool,
    /// Whether memory can be mapped without a memslot ([`Vm::push_map`]).
    pub push_map: bool,
    /// The width of a guest-physical address, or an upper bound ([`Vm::address_bits`]);
    /// `None` if neither is known. The planner refuses ranges beyond. Plans that move
    /// slots hold vCPUs unless the width is [exact](AddressBits::Exact).
    pub address_bits: Option<AddressBits>,
}

impl Capabilities {
    /// The minimum: 32 slots of host memory. Set the fields to plan without a VM.
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

    /// Queries the capabilities of `vm`.
    pub fn probe(vm: &impl Vm) -> Self {
        // Negative results are errors: the kernel lacks the capability.
        let ask = |capability| u32::try_from(vm.check_extension(capability)).unwrap_or(0);
        Self {
            page_size: vm.page_size(),
            // api.rst: 32 if the extension is not reported.
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

/// The page size of this host.
pub(crate) fn host_page_size() -> PageSize {
    // SAFETY: `sysconf` only reads a system constant.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let size = u64::try_from(size).ok().map(PageSize::new);
    // Kernels with KVM have no other sizes. The largest one would only refuse too much.
    size.and_then(Result::ok).unwrap_or(PageSize::Size64K)
}
