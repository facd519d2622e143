// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log and ring of the simulated KVM, by its own ioctls.

use crate::common;

use std::sync::Arc;

use common::PAGE;
use common::guest::Guest;
use common::pages::Pages;
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_slots::Errno;
use kvm_slots::dirty::{DirtyCapabilities, DirtyEntry, DirtyRing, LoggingVm, ManualProtect};
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{KernelVersion, SimConfig};

const SLOT: u32 = 3;
const PAGES: u64 = 200;

/// A guest with memory at 0 that logs.
fn guest() -> (Guest, Arc<Pages>) {
    let mut guest = Guest::new(SimConfig::released(KernelVersion::V7_3));
    let pages = add_memory(&mut guest);
    (guest, pages)
}

fn add_memory(guest: &mut Guest) -> Arc<Pages> {
    let pages = Arc::new(Pages::new(200 * 4096));
    guest.ram(SLOT, 0, KVM_MEM_LOG_DIRTY_PAGES, &pages);
    pages
}

fn store(guest: &mut Guest, pages: &[u64]) {
    for page in pages {
        guest.store(page * PAGE, &[1]).expect("memory");
    }
}

/// The pages of the log.
fn log(guest: &Guest) -> Vec<u64> {
    let log = guest.vm().get_dirty_log(SLOT).expect("a log");
    assert_eq!(log.len() as u64, PAGES.div_ceil(64));
    let bits = log
        .iter()
        .flat_map(|word| (0..64).map(move |n| word >> n & 1));
    let pages = (0..).zip(bits).filter(|(_, bit)| *bit == 1);
    pages.map(|(page, _)| page).collect()
}

#[test]
fn a_log_is_cleared_as_it_is_read() {
    let (mut guest, _) = guest();
    store(&mut guest, &[0, 64, 64, 199]);
    // Across a border: two pages.
    guest.store(5 * PAGE - 2, &[1; 4]).unwrap();
    assert_eq!(log(&guest), [0, 4, 5, 64, 199]);
    assert!(log(&guest).is_empty());
    store(&mut guest, &[64]);
    assert_eq!(log(&guest), [64]);
}

#[test]
fn a_manually_protected_log_is_cleared_by_clearing_it() {
    let (mut guest, _) = guest();
    let vm = guest.vm().clone();
    vm.set_manual_protect(ManualProtect::ENABLE).unwrap();
    store(&mut guest, &[0, 1, 64, 199]);
    assert_eq!(log(&guest), [0, 1, 64, 199]);
    // Only the pages in the bitmap, and only in the range.
    vm.clear_dirty_log(SLOT, 0, 64, &[0b10]).unwrap();
    assert_eq!(log(&guest), [0, 64, 199]);
    vm.clear_dirty_log(SLOT, 192, 8, &[u64::MAX]).unwrap();
    assert_eq!(log(&guest), [0, 64]);
}

#[test]
fn an_initially_set_log_has_all_pages_once() {
    let mut guest = Guest::new(SimConfig::released(KernelVersion::V7_3));
    let vm = guest.vm().clone();
    vm.set_manual_protect(ManualProtect::all()).unwrap();
    add_memory(&mut guest);
    assert_eq!(log(&guest), Vec::from_iter(0..PAGES));
    vm.clear_dirty_log(SLOT, 0, 200, &[u64::MAX; 4]).unwrap();
    assert!(log(&guest).is_empty());
}

#[test]
fn clearing_is_refused_in_the_order_of_the_kernels_checks() {
    let (guest, _) = guest();
    let clear = |slot, first, num| {
        guest
            .vm()
            .clear_dirty_log(slot, first, num, &[0; 4])
            .map_err(|errno| errno.to_string())
    };
    let (ok, einval, enoent) = (Ok(()), Err("EINVAL".into()), Err("ENOENT".into()));
    assert_eq!(clear(40_000, 1, 1), einval); // no such number
    assert_eq!(clear(SLOT + 1, 1, 1), einval); // alignment comes first
    assert_eq!(clear(SLOT + 1, 0, 1), enoent);
    for (first, num, result) in [
        (0, 64, &ok),
        (0, 200, &ok),
        (0, 63, &einval),
        (0, 201, &einval),
        (128, 72, &ok),
        (128, 71, &einval),
        (192, 64, &einval),
        (256, 0, &einval),
        (u64::MAX - 63, 64, &einval),
    ] {
        assert_eq!(clear(SLOT, first, num), *result, "{num} from {first}");
    }
}

#[test]
fn reading_is_refused_in_the_order_of_the_kernels_checks() {
    let (mut guest, pages) = guest();
    guest.ram(SLOT + 2, 0x100_0000, 0, &pages);
    // No such slot, one that does not log, no such number or address space.
    let wrong = [SLOT + 1, SLOT + 2, 32764, 0xffff, SLOT | 2 << 16, u32::MAX];
    let read = |guest: &Guest| wrong.map(|slot| guest.vm().get_dirty_log(slot).err());
    let (enoent, einval) = (Some(Errno::ENOENT), Some(Errno::EINVAL));
    let refused = [enoent, enoent, einval, einval, einval, einval];
    assert_eq!(read(&guest), refused);
    guest.vm().enable_dirty_ring(4096).unwrap();
    assert_eq!(read(&guest), [Some(Errno::ENXIO); 6]);
}

#[test]
fn a_bitmap_that_is_too_short_is_refused() {
    let (guest, _) = guest();
    let cleared = guest.vm().clear_dirty_log(SLOT, 0, 128, &[0]);
    assert_eq!(cleared, Err(Errno::EINVAL));
}

#[test]
fn a_log_lives_as_long_as_its_slot_and_its_flag() {
    let (mut guest, pages) = guest();
    store(&mut guest, &[7]);
    // It moves along.
    guest.ram(SLOT, 0x100_0000, KVM_MEM_LOG_DIRTY_PAGES, &pages);
    assert_eq!(log(&guest), [7]);
    guest.store(0x100_0000 + 8 * PAGE, &[1]).unwrap();
    guest.ram(SLOT, 0x100_0000, 0, &pages);
    assert_eq!(guest.vm().get_dirty_log(SLOT), Err(Errno::ENOENT));
    guest.ram(SLOT, 0x100_0000, KVM_MEM_LOG_DIRTY_PAGES, &pages);
    assert!(log(&guest).is_empty());
    guest.store(0x100_0000, &[1]).unwrap();
    guest.delete(SLOT);
    assert_eq!(guest.vm().get_dirty_log(SLOT), Err(Errno::ENOENT));
    guest.ram(SLOT, 0, KVM_MEM_LOG_DIRTY_PAGES, &pages);
    assert!(log(&guest).is_empty());
}

#[test]
fn a_ring_has_each_page_once_until_it_is_reset() {
    let mut guest = Guest::new(SimConfig::released(KernelVersion::V7_3));
    let vm = guest.vm().clone();
    assert_eq!(vm.dirty_ring().err(), Some(Errno::ENXIO));
    assert_eq!(vm.reset_dirty_rings(), Err(Errno::EINVAL));
    vm.enable_dirty_ring(4096).unwrap();
    let mut ring = vm.dirty_ring().unwrap();
    add_memory(&mut guest);
    store(&mut guest, &[9, 9, 2, 9]);
    let entry = |page| Some(DirtyEntry { slot: SLOT, page });
    assert_eq!(ring.harvest(), entry(9));
    // A harvested entry is not reset: its page is not reported again.
    store(&mut guest, &[9]);
    assert_eq!(vm.reset_dirty_rings(), Ok(1));
    store(&mut guest, &[9]);
    assert_eq!([ring.harvest(), ring.harvest()], [entry(2), entry(9)]);
    assert_eq!(ring.harvest(), None);
    assert_eq!(vm.reset_dirty_rings(), Ok(2));
    assert_eq!(vm.get_dirty_log(SLOT), Err(Errno::ENXIO));
}

#[test]
fn a_guest_stops_where_its_ring_is_nearly_full() {
    let mut guest = Guest::new(SimConfig::released(KernelVersion::V7_3));
    let vm = guest.vm().clone();
    vm.enable_dirty_ring(4096).unwrap();
    let mut ring = vm.dirty_ring().unwrap();
    let pages = add_memory(&mut guest);
    // 256 entries, of which 64 are reserved for one more run.
    store(&mut guest, &Vec::from_iter(0..192));
    let full = Err(GuestFault::DirtyRingFull);
    assert_eq!(guest.store(192 * PAGE, &[1]), full);
    assert_eq!(pages.read(192 * 4096), [0]);
    assert_eq!(guest.load::<1>(0).err(), full.err());
    assert!(ring.harvest().is_some());
    assert_eq!(guest.store(192 * PAGE, &[1]), full);
    assert_eq!(vm.reset_dirty_rings(), Ok(1));
    store(&mut guest, &[192]);
    assert_eq!(guest.store(0, &[1]), full);
}

#[test]
fn a_ring_is_refused_by_its_size_and_when_it_is_too_late() {
    let guest = || Guest::new(SimConfig::released(KernelVersion::V7_3));
    for (bytes, errno) in [
        (0, Some(Errno::EINVAL)),
        (2048, Some(Errno::EINVAL)),
        (4097, Some(Errno::EINVAL)),
        (1 << 21, Some(Errno::E2BIG)),
        (1 << 20, None),
    ] {
        let enabled = guest().vm().enable_dirty_ring(bytes);
        assert_eq!(enabled.err(), errno, "{bytes}");
    }
    let mut late = guest();
    add_memory(&mut late);
    store(&mut late, &[0]);
    assert_eq!(late.vm().enable_dirty_ring(4096), Err(Errno::EINVAL));
    let twice = guest();
    twice.vm().enable_dirty_ring(4096).unwrap();
    assert_eq!(twice.vm().enable_dirty_ring(4096), Err(Errno::EINVAL));
}

#[test]
fn a_kernel_reports_its_dirty_tracking_capabilities() {
    let (guest, _) = guest();
    let capabilities = DirtyCapabilities::probe(guest.vm());
    assert_eq!(capabilities.manual_protect, ManualProtect::all());
    assert_eq!(capabilities.ring_bytes, 1 << 20);
    assert!(!capabilities.ring_needs_log);
    for bad in [
        ManualProtect::INITIALLY_SET,
        ManualProtect::from_bits_retain(5),
    ] {
        assert_eq!(guest.vm().set_manual_protect(bad), Err(Errno::EINVAL));
    }
}
