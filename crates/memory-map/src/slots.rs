// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rows from the memslots of `kvm-slots`.

use kvm_slots::{Backing, Slot};

use crate::rows::SlotRow;

impl From<&Slot> for SlotRow {
    fn from(slot: &Slot) -> Self {
        Self {
            id: slot.id,
            gpa: slot.gpa,
            size: slot.size,
            flags: slot.flag_names(),
            backing: slot.backing.to_string(),
            behind: behind(&slot.backing),
            host_mapped: slot.backing.host().is_some(),
        }
    }
}

/// What is behind a slot, without what differs from run to run.
fn behind(backing: &Backing) -> Vec<String> {
    let file = backing.file().map(|file| match backing {
        Backing::GuestMemfd { .. } => format!("guest_memfd + {:#x}", file.offset()),
        _ => format!("file + {:#x}", file.offset()),
    });
    let host = backing.host().map(|_| "host memory".to_string());
    file.into_iter().chain(host).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvm_slots::{FileStart, HostMemory, SlotAccess};

    use super::*;

    fn slot(backing: Backing) -> Slot {
        Slot {
            id: 3,
            gpa: 0x1000,
            size: 0x2000,
            access: SlotAccess::ReadOnly,
            backing,
            log_dirty: false,
        }
    }

    #[test]
    fn a_slot_on_host_memory_is_described_with_and_without_its_address() {
        let host = HostMemory::new(0x7f00_0000_0000, Arc::new(()));
        let row = SlotRow::from(&slot(Backing::Host(host)));
        assert_eq!((row.id, row.gpa, row.size), (3, 0x1000, 0x2000));
        assert_eq!(row.flags, ["READONLY"]);
        assert_eq!(row.backing, "host memory at 0x7f0000000000");
        assert_eq!(row.behind, ["host memory"]);
        assert!(row.host_mapped);
    }

    #[test]
    fn a_slot_on_a_file_alone_has_no_host_address() {
        let file = FileStart::new(5, 0x4000, Arc::new(()));
        let row = SlotRow::from(&slot(Backing::FdOffset(file)));
        assert_eq!(row.backing, "fd 5 + 0x4000, no host address");
        assert_eq!(row.behind, ["file + 0x4000"]);
        assert!(!row.host_mapped);
    }
}
