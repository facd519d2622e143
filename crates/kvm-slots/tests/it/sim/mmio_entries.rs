// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that KVM caches as MMIO, before and after slots change.

use crate::common;

use std::sync::Arc;

use common::guest::{Guest, MMIO};
use common::pages::Pages;
use common::region::private_vm;
use common::{ABI, PAGE};
use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

/// A page without a slot, next to one with memory.
const AT: u64 = 8 * PAGE;
const RAM: u64 = 2 * PAGE;

fn guest(config: SimConfig) -> (Guest, Arc<Pages>) {
    let mut guest = Guest::new(SimConfig { abi: ABI, ..config });
    let pages = Arc::new(Pages::new(4096));
    guest.ram(0, RAM, 0, &pages);
    assert_eq!(guest.load(AT), Ok([MMIO]));
    (guest, pages)
}

/// The result of an access to a private page that was MMIO before.
fn shared_fault() -> Result<[u8; 1], GuestFault> {
    Err(GuestFault::Memory {
        flags: 0,
        gpa: AT,
        size: PAGE,
    })
}

#[test]
fn a_slot_without_a_host_address_is_reached_where_there_was_mmio() {
    let (mut guest, _) = guest(SimConfig::released(KernelVersion::V7_3));
    let file = guest.vm().create_dma_buf(PAGE).unwrap();
    guest.device(1, AT, &file, 0);
    guest.exits();
    assert_eq!(guest.store(AT, &[5]), Ok(()));
    assert_eq!(guest.load(AT), Ok([5]));
    assert!(guest.exits().is_empty());
    // It is MMIO again after the slot is deleted.
    guest.delete(1);
    assert_eq!(guest.load(AT), Ok([MMIO]));
    assert_eq!(guest.exits().len(), 1);
}

#[test]
fn a_page_stays_mmio_for_the_guest_until_any_slot_changes() {
    type Change = fn(&mut Guest, &Arc<Pages>);
    let changes: [(&str, Change); 4] = [
        ("creation", |guest, pages| guest.ram(1, 4 * PAGE, 0, pages)),
        ("move", |guest, pages| guest.ram(0, 3 * PAGE, 0, pages)),
        ("flags", |guest, pages| guest.ram(0, RAM, 1, pages)),
        ("deletion", |guest, _| guest.delete(0)),
    ];
    for (what, change) in changes {
        let (mut guest, pages) = guest(private_vm(KernelVersion::V7_3));
        guest.convert(AT, true);
        assert_eq!(guest.load(AT), Ok([MMIO]), "{what}");
        // The same slot again is no change.
        guest.ram(0, RAM, 0, &pages);
        assert_eq!(guest.load(AT), Ok([MMIO]), "{what}");
        change(&mut guest, &pages);
        assert_eq!(guest.load(AT), shared_fault(), "{what}");
        // Shared again, it is MMIO again, and cached as such.
        guest.convert(AT, false);
        assert_eq!(guest.load(AT), Ok([MMIO]), "{what}");
        guest.convert(AT, true);
        assert_eq!(guest.load(AT), Ok([MMIO]), "{what}");
    }
}

#[test]
fn a_page_that_was_mapped_is_no_longer_known_as_mmio() {
    let (mut guest, pages) = guest(private_vm(KernelVersion::V7_3));
    let file = guest.ram_and_file(1, AT, &pages, GuestMemfdFlags::empty());
    assert_eq!(guest.load(AT), Ok([0]));
    guest.convert(AT, true);
    assert_eq!(guest.store(AT, &[3]), Ok(()));
    assert_eq!(guest.load(AT), Ok([3]));
    drop(file);
    // A page that cannot be mapped keeps its entry.
    assert_eq!(guest.load(9 * PAGE), Ok([MMIO]));
    let forbidden = Arc::new(Pages::new(4096));
    forbidden.forbid(0, 4096);
    guest.ram(2, 9 * PAGE, 0, &forbidden);
    assert!(guest.load::<1>(9 * PAGE).is_err());
    guest.convert(9 * PAGE, true);
    let fault = guest.load::<1>(9 * PAGE);
    assert!(matches!(fault, Err(GuestFault::Memory { flags: 0, .. })));
}

#[test]
fn a_refused_change_leaves_the_page_mmio() {
    let (mut guest, pages) = guest(private_vm(KernelVersion::V7_3));
    guest.convert(AT, true);
    let region = kvm_userspace_memory_region2 {
        slot: 1,
        guest_phys_addr: RAM,
        memory_size: PAGE,
        userspace_addr: pages.address(),
        ..Default::default()
    };
    // SAFETY: the slot is refused, as another one is there.
    let refused = unsafe { guest.vm().set_user_memory_region2(&region) };
    assert_eq!(refused, Err(Errno::EEXIST));
    assert_eq!(guest.load(AT), Ok([MMIO]));
}

#[test]
fn many_pages_are_remembered_and_not_any_number() {
    let (mut guest, _) = guest(private_vm(KernelVersion::V7_3));
    let page = |number: u64| 0x1_0000_0000 + number * PAGE;
    for number in 0..1000 {
        assert_eq!(guest.load(page(number)), Ok([MMIO]));
    }
    for gpa in [AT, page(0), page(999)] {
        guest.convert(gpa, true);
        assert_eq!(guest.load(gpa), Ok([MMIO]), "{gpa:#x}");
    }
    for number in 1000..(1 << 16) {
        assert_eq!(guest.load(page(number)), Ok([MMIO]));
    }
    // The first ones are forgotten: a private page without a slot is no MMIO.
    let private = GuestFault::Memory {
        flags: 8,
        gpa: AT,
        size: PAGE,
    };
    assert_eq!(guest.load::<1>(AT), Err(private));
}
