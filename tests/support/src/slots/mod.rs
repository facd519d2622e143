// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Short ways to write ranges and tables, for tests of `kvm-slots`.

pub mod compare;
pub mod dumb;
pub mod layout;
pub mod machine;
pub mod oracle;
pub mod pages;
pub mod random;
pub mod region;
pub mod watched;

use std::sync::Arc;

use guest_ranges::Owner;
use kvm_slots::plan::plan;
use kvm_slots::{
    AbiProfile, AddressBits, Capabilities, DeviceFile, FileSlice, GuestMemfdFlags, HostMemory,
    PageSize, Plan, SlotAccess, SlotBacking, SlotRange, SlotTable,
};

/// The size of a page.
pub const PAGE: u64 = 0x1000;
/// A host address that a process could have; nothing is mapped there.
pub const HOST: u64 = 0x7e00_0000_0000;
/// A profile with slots of every kind.
pub const ABI: AbiProfile = AbiProfile::FD_OFFSET_BIT_4;

/// The capabilities of a kernel that supports everything.
pub fn able() -> Capabilities {
    let mut able = Capabilities::minimal();
    able.page_size = PageSize::Size4K;
    able.nr_memslots = 32764;
    able.user_memory2 = true;
    able.readonly_mem = true;
    able.guest_memfd = true;
    able.guest_memfd_flags = GuestMemfdFlags::all();
    able.memory_attributes = 0;
    able.memory_fault_info = true;
    able.push_map = false;
    able.address_bits = Some(AddressBits::Exact(64));
    able
}

/// All host memory from `address` on, without an owner. [`range`] takes as much
/// of it as it needs.
pub fn host(address: u64) -> HostMemory {
    owned_host(address, Arc::new(()))
}

/// All host memory from `address` on, with an owner.
///
/// # Panics
/// If the address is 0.
pub fn owned_host(address: u64, owner: Owner) -> HostMemory {
    // SAFETY: only a simulated KVM gets this memory. It copies bytes by system
    // calls, which fail where nothing is mapped, and tests that map memory there
    // hold no references to it.
    let memory = unsafe { HostMemory::new(address, address.wrapping_neg(), owner) };
    memory.expect("host memory has an address")
}

/// The bytes of a file from `offset` on, without an owner.
///
/// # Panics
/// If the offset is 2^64 - 1.
pub fn file(fd: i32, offset: u64) -> FileSlice {
    // SAFETY: the tests keep the files open for as long as they use them.
    let slice = unsafe { FileSlice::from_raw_fd(fd, offset, u64::MAX - offset, Arc::new(())) };
    slice.expect("there are bytes at the offset")
}

/// The bytes of a device's file from `offset` on, without an owner.
pub fn device_file(fd: i32, offset: u64) -> DeviceFile {
    DeviceFile::new(file(fd, offset))
}

/// A range that the guest reads and writes, and that is not logged: the first
/// `size` bytes of `backing`.
///
/// # Panics
/// If it is empty or wraps.
pub fn range(gpa: u64, size: u64, backing: SlotBacking) -> SlotRange {
    let backing = backing.slice(0, size).expect("the backing has the bytes");
    SlotRange::new(gpa, SlotAccess::ReadWrite, backing).expect("the range does not wrap")
}

/// Ordinary memory at `address`.
pub fn ram(gpa: u64, size: u64, address: u64) -> SlotRange {
    range(gpa, size, SlotBacking::Host(host(address)))
}

/// A slice of a guest_memfd, without a host address.
pub fn guest_memfd(gpa: u64, size: u64, fd: i32, offset: u64) -> SlotRange {
    let file = file(fd, offset);
    range(gpa, size, SlotBacking::GuestMemfd { file, host: None })
}

/// A slice of a device's file.
pub fn device(gpa: u64, size: u64, fd: i32, offset: u64) -> SlotRange {
    range(gpa, size, SlotBacking::FdOffset(device_file(fd, offset)))
}

/// The range, read-only.
pub fn readonly(range: SlotRange) -> SlotRange {
    range.with_access(SlotAccess::ReadOnly)
}

/// The range, logged.
pub fn logged(range: SlotRange) -> SlotRange {
    range.with_log_dirty(true)
}

/// Applies a plan to a table only.
pub fn follow(table: &mut SlotTable, plan: &Plan) {
    table.follow(plan).expect("the plan starts from the table");
}

/// The table of a VM that got these sets of ranges one after another.
pub fn table(sets: &[&[SlotRange]]) -> SlotTable {
    let mut table = SlotTable::new();
    for wanted in sets {
        let plan = plan(&table, wanted, &able(), ABI).expect("a plan");
        follow(&mut table, &plan);
    }
    table
}

/// The plan from the ranges `old` to the ranges `new`.
pub fn planned(old: &[SlotRange], new: &[SlotRange]) -> Plan {
    plan(&table(&[old]), new, &able(), ABI).expect("a plan")
}

/// The plan from a table to what it should already be.
pub fn plan_again(table: &SlotTable, wanted: &[SlotRange]) -> Plan {
    plan(table, wanted, &able(), ABI).expect("a plan")
}

/// The operations as text.
pub fn texts(plan: &Plan) -> Vec<String> {
    plan.ops().iter().map(ToString::to_string).collect()
}
