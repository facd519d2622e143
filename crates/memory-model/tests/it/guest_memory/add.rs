// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `Transaction::add_guest_memory`: a `GuestMemoryMmap` as RAM.

use crate::common;

use std::sync::Arc;

use common::Machine;
use memory_model::{AddGuestMemoryError, SharedMemory};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

const PAGE: usize = 0x1000;

fn guest(ranges: &[u64]) -> GuestMemoryMmap {
    let ranges: Vec<_> = ranges.iter().map(|at| (GuestAddress(*at), PAGE)).collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

#[test]
fn a_vmm_that_has_guest_memory_starts_with_one_line() {
    let (mut m, guest) = (Machine::new(), guest(&[0, 0x4000]));
    let root = m.root;
    let mut t = m.model.transaction();
    let ids = t.add_guest_memory(root, &guest, &()).unwrap();
    t.commit().unwrap();
    assert_eq!(ids.len(), 2);
    assert_eq!(m.view(), ["0-fff ram rw", "4000-4fff ram1 rw"]);
    // Both lead to the same bytes.
    guest.write_obj(7_u8, GuestAddress(0x4004)).unwrap();
    let (view, private) = (m.model.view(m.space), m.model.private(m.space));
    let shared = SharedMemory::<MmapRegion>::of_owners(&view, private).unwrap();
    assert_eq!(shared.read_obj::<u8>(GuestAddress(0x4004)).unwrap(), 7);
    // The model keeps the mappings.
    drop(guest);
    assert_eq!(shared.read_obj::<u8>(GuestAddress(0x4004)).unwrap(), 7);
}

#[test]
fn guest_memory_with_a_read_only_mapping_is_refused_and_nothing_added() {
    const PROT_READ: i32 = 1;
    let readonly = MmapRegionBuilder::new(PAGE)
        .with_mmap_prot(PROT_READ)
        // Private and anonymous.
        .with_mmap_flags(0x22)
        .build()
        .unwrap();
    let readonly = GuestRegionMmap::<()>::with_arc(Arc::new(readonly), GuestAddress(0x2000));
    let guest = guest(&[0])
        .insert_region(Arc::new(readonly.unwrap()))
        .unwrap();
    let mut m = Machine::new();
    let (root, before) = (m.root, m.everything(&[]));
    let mut t = m.model.transaction();
    let refused = t.add_guest_memory(root, &guest, &()).unwrap_err();
    assert!(matches!(refused, AddGuestMemoryError::NotMapped { range } if range.start() == 0x2000));
    t.commit().unwrap();
    assert_eq!(m.everything(&[]), before);
    assert!(m.model.tree().children(root).unwrap().is_empty());
}
