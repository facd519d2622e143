// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Converts memslots of `kvm-slots` to rows.

use kvm_slots::{Slot, SlotBacking};

use crate::rows::SlotRow;

impl From<&Slot> for SlotRow {
    fn from(slot: &Slot) -> Self {
        Self {
            id: slot.id(),
            gpa: slot.gpa(),
            size: slot.size(),
            flags: slot.flag_names(),
            backing: slot.backing().to_string(),
            behind: behind(slot.backing()),
            host_mapped: slot.backing().host().is_some(),
        }
    }
}

/// Describes the memory behind a slot, without addresses and descriptors that
/// differ between runs.
fn behind(backing: &SlotBacking) -> Vec<String> {
    let file = backing.file().map(|file| match backing {
        SlotBacking::GuestMemfd { .. } => format!("guest_memfd + {:#x}", file.offset()),
        _ => format!("file + {:#x}", file.offset()),
    });
    let host = backing.host().map(|_| "host memory".to_string());
    file.into_iter().chain(host).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvm_slots::plan::plan;
    use kvm_slots::{
        AbiProfile, Capabilities, DeviceFile, FileSlice, HostMemory, PageSize, SlotAccess,
        SlotRange, SlotRules, SlotTable,
    };

    use super::*;

    /// Plans slot 3 for a kernel that supports all kinds of slots.
    fn slot(access: SlotAccess, backing: SlotBacking) -> Slot {
        let range = SlotRange::new(0x1000, access, backing).expect("it does not wrap");
        let mut able = Capabilities::minimal();
        (able.page_size, able.user_memory2, able.readonly_mem) = (PageSize::Size4K, true, true);
        let mut table = SlotTable::with_rules(SlotRules::new().reserving(0..=2));
        let plan = plan(&table, &[range], &able, AbiProfile::FD_OFFSET_BIT_4);
        table.follow(&plan.expect("a plan")).expect("a slot");
        table.get(3).expect("a slot").clone()
    }

    #[test]
    fn a_slot_on_host_memory_is_described_with_and_without_its_address() {
        let host = HostMemory::placeholder(0x2000).expect("it has bytes");
        let row = SlotRow::from(&slot(SlotAccess::ReadOnly, SlotBacking::Host(host)));
        assert_eq!((row.id, row.gpa, row.size), (3, 0x1000, 0x2000));
        assert_eq!(row.flags, ["READONLY"]);
        assert_eq!(row.backing, "host memory at 0xffffffffffffe000");
        assert_eq!(row.behind, ["host memory"]);
        assert!(row.host_mapped);
    }

    #[test]
    fn a_slot_on_a_file_alone_has_no_host_address() {
        let file = FileSlice::new(Arc::new(std::io::stdin()), 0x4000, 0x2000);
        let file = DeviceFile::new(file.expect("it has bytes"));
        let row = SlotRow::from(&slot(SlotAccess::ReadWrite, SlotBacking::FdOffset(file)));
        assert_eq!(row.backing, "fd 0 + 0x4000, no host address");
        assert_eq!(row.behind, ["file + 0x4000"]);
        assert!(!row.host_mapped);
    }
}
