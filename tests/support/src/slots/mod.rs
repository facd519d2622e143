// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Short ways to say ranges and tables, for tests of `kvm-slots`.

pub mod beside;
pub mod dumb;
pub mod layout;
pub mod machine;
pub mod oracle;
pub mod pages;
pub mod random;
pub mod region;
pub mod watched;

use std::sync::Arc;

use kvm_slots::{
    AbiProfile, Backing, Capabilities, FileStart, GuestMemfdFlags, HostMemory, Plan, SlotAccess,
    SlotRange, SlotTable, apply, plan,
};
use watched::Paper;

/// The size of a page.
pub const PAGE: u64 = 0x1000;
/// A host address that a process could have; nothing is mapped there.
pub const HOST: u64 = 0x7e00_0000_0000;
/// A profile with slots of every kind.
pub const ABI: AbiProfile = AbiProfile::FD_OFFSET_BIT_4;

/// A kernel that can do everything.
pub fn able() -> Capabilities {
    Capabilities {
        page_size: PAGE,
        nr_memslots: 32764,
        user_memory2: true,
        readonly_mem: true,
        guest_memfd: true,
        guest_memfd_flags: GuestMemfdFlags::all(),
        memory_attributes: 0,
        memory_fault_info: true,
        push_map: false,
        address_bits: Some(64),
    }
}

/// Host memory at `address` that nobody owns.
pub fn host(address: u64) -> HostMemory {
    HostMemory::new(address, Arc::new(()))
}

/// The part of a file from `offset` on, which nobody owns.
pub fn file(fd: i32, offset: u64) -> FileStart {
    FileStart::new(fd, offset, Arc::new(()))
}

/// A range that the guest reads and writes, and that is not logged.
pub fn range(gpa: u64, size: u64, backing: Backing) -> SlotRange {
    SlotRange {
        gpa,
        size,
        access: SlotAccess::ReadWrite,
        backing,
        log_dirty: false,
    }
}

/// Ordinary memory at `address`.
pub fn ram(gpa: u64, size: u64, address: u64) -> SlotRange {
    range(gpa, size, Backing::Host(host(address)))
}

/// A slice of a guest_memfd, without a host address.
pub fn guest_memfd(gpa: u64, size: u64, fd: i32, offset: u64) -> SlotRange {
    let file = file(fd, offset);
    range(gpa, size, Backing::GuestMemfd { file, host: None })
}

/// A slice of a device's file.
pub fn device(gpa: u64, size: u64, fd: i32, offset: u64) -> SlotRange {
    range(gpa, size, Backing::FdOffset(file(fd, offset)))
}

/// The range, read-only.
pub fn readonly(range: SlotRange) -> SlotRange {
    SlotRange {
        access: SlotAccess::ReadOnly,
        ..range
    }
}

/// The range, logged.
pub fn logged(range: SlotRange) -> SlotRange {
    SlotRange {
        log_dirty: true,
        ..range
    }
}

/// Carries a plan out on paper.
pub fn follow(table: &mut SlotTable, plan: &Plan) {
    // SAFETY: there is no VM behind `Paper`, and so no guest that could touch
    // the addresses.
    let applied = unsafe { apply(&Paper, &able(), ABI, plan, table) };
    let _ = applied.expect("paper refuses nothing");
}

/// The table of a VM that was given these ranges one set after the other.
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
    plan.ops.iter().map(ToString::to_string).collect()
}
