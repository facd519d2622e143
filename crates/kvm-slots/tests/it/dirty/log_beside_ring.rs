// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings with a log beside them, for pages that the kernel writes without a vCPU.

use crate::common;

use std::sync::Arc;

use common::guest::Guest;
use common::pages::Pages;
use common::{PAGE, logged, ram, table};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_slots::dirty::{
    DirtyCapabilities, DirtyCollector, DirtyMode, DirtyRing, LoggingVm, ManualProtect,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{Capabilities, Errno, SlotTable};

const SLOT: u32 = 0;
const PAGES: u64 = 200;
const RING: DirtyMode = DirtyMode::Ring { bytes: 4096 };

fn config(kernel: KernelVersion) -> SimConfig {
    SimConfig {
        ring_needs_log: true,
        ..SimConfig::released(kernel)
    }
}

fn guest() -> Guest {
    Guest::new(config(KernelVersion::V7_3))
}

fn add_memory(guest: &mut Guest) -> Arc<Pages> {
    let pages = Arc::new(Pages::new(200 * 4096));
    guest.ram(SLOT, 0, KVM_MEM_LOG_DIRTY_PAGES, &pages);
    pages
}

/// The slots of a guest with memory, for a collector.
fn slots(pages: &Arc<Pages>) -> SlotTable {
    table(&[&[logged(ram(0, PAGES * PAGE, pages.address()))]])
}

/// The numbers of the pages of a log.
fn numbers(log: &[u64]) -> Vec<u64> {
    let is_set = |n: &u64| log[usize::try_from(n / 64).unwrap()] >> (n % 64) & 1 == 1;
    (0..log.len() as u64 * 64).filter(is_set).collect()
}

fn log(vm: &SimVm) -> Vec<u64> {
    numbers(&vm.get_dirty_log(SLOT).expect("a log"))
}

fn entries(ring: &mut impl DirtyRing) -> Vec<u64> {
    std::iter::from_fn(|| ring.harvest())
        .map(|entry| entry.page)
        .collect()
}

#[test]
fn such_kernels_have_the_newer_ring_only_and_say_that_it_needs_a_log() {
    for (kernel, bytes) in [(KernelVersion::V6_1, 0), (KernelVersion::V6_12, 1 << 20)] {
        let vm = SimVm::new(config(kernel));
        let able = DirtyCapabilities::probe(&vm);
        assert_eq!((able.ring_bytes, able.ring_needs_log), (bytes, bytes > 0));
        let enabled = vm.enable_dirty_ring(4096);
        assert_eq!(enabled.is_ok(), bytes > 0, "{kernel}");
    }
}

#[test]
fn a_log_beside_a_ring_comes_after_the_ring_and_before_the_first_slot() {
    let guest = guest();
    let vm = guest.vm();
    assert_eq!(vm.enable_log_beside_ring(), Err(Errno::EINVAL));
    vm.enable_dirty_ring(4096).unwrap();
    assert_eq!(vm.get_dirty_log(SLOT), Err(Errno::ENXIO));
    assert_eq!(vm.enable_log_beside_ring(), Ok(()));
    assert_eq!(vm.enable_log_beside_ring(), Ok(()));
    // There may be logs, and there is no slot.
    assert_eq!(vm.get_dirty_log(SLOT), Err(Errno::ENOENT));

    let mut late = self::guest();
    late.vm().enable_dirty_ring(4096).unwrap();
    add_memory(&mut late);
    assert_eq!(late.vm().enable_log_beside_ring(), Err(Errno::EINVAL));
    let other = SimVm::new(SimConfig::released(KernelVersion::V7_3));
    other.enable_dirty_ring(4096).unwrap();
    assert_eq!(other.enable_log_beside_ring(), Err(Errno::EINVAL));
}

#[test]
fn a_ring_has_what_vcpus_write_and_the_log_what_the_kernel_writes() {
    let mut guest = guest();
    let vm = guest.vm().clone();
    vm.enable_dirty_ring(4096).unwrap();
    vm.enable_log_beside_ring().unwrap();
    let pages = add_memory(&mut guest);
    let mut ring = vm.dirty_ring().unwrap();
    guest.store(3 * PAGE, &[1]).unwrap();
    // Across a border: two pages.
    vm.store_without_vcpu(65 * PAGE - 1, &[7, 8]).unwrap();
    assert_eq!(pages.read::<2>(65 * 4096 - 1), [7, 8]);
    assert_eq!((entries(&mut ring), log(&vm)), (vec![3], vec![64, 65]));
    assert_eq!((entries(&mut ring), log(&vm)), (vec![], vec![]));
    let beyond = vm.store_without_vcpu(PAGES * PAGE - 1, &[1, 2]);
    assert_eq!((beyond, log(&vm)), (Err(Errno::EFAULT), vec![199]));
}

#[test]
fn a_page_of_the_log_is_protected_again_when_it_is_cleared() {
    let mut guest = guest();
    let vm = guest.vm().clone();
    vm.set_manual_protect(ManualProtect::ENABLE).unwrap();
    vm.enable_dirty_ring(4096).unwrap();
    vm.enable_log_beside_ring().unwrap();
    add_memory(&mut guest);
    let mut ring = vm.dirty_ring().unwrap();
    guest.store(3 * PAGE, &[1]).unwrap();
    vm.store_without_vcpu(3 * PAGE, &[1]).unwrap();
    assert_eq!((log(&vm), log(&vm)), (vec![3], vec![3]));
    assert_eq!(entries(&mut ring), [3]);
    guest.store(3 * PAGE, &[1]).unwrap();
    assert!(entries(&mut ring).is_empty());
    vm.clear_dirty_log(SLOT, 0, 64, &[!0]).unwrap();
    assert!(log(&vm).is_empty());
    guest.store(3 * PAGE, &[1]).unwrap();
    assert_eq!(entries(&mut ring), [3]);
}

#[test]
fn a_collector_reads_the_log_beside_rings_only_at_the_end() {
    let mut guest = guest();
    let vm = guest.vm().clone();
    let collector = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), RING).unwrap();
    collector.add_ring(Box::new(vm.dirty_ring().unwrap()));
    let client = collector.tracker().client();
    let pages = add_memory(&mut guest);
    let slots = slots(&pages);
    let taken = || -> Vec<u64> {
        let taken = client.take_all();
        let page = |host: u64| (host - pages.address()) / PAGE;
        let runs = taken.runs();
        runs.flat_map(|run| page(run.start())..=page(run.last()))
            .collect()
    };
    guest.store(3 * PAGE, &[1]).unwrap();
    vm.store_without_vcpu(64 * PAGE, &[1]).unwrap();
    collector.collect(&slots).unwrap();
    assert_eq!(taken(), [3]);
    guest.store(5 * PAGE, &[1]).unwrap();
    collector.collect_final(&slots).unwrap();
    assert_eq!(taken(), [5, 64]);
    collector.collect_final(&slots).unwrap();
    assert!(taken().is_empty());
}

#[test]
fn a_collector_needs_the_first_slot_to_come_later() {
    let mut guest = guest();
    add_memory(&mut guest);
    let vm = guest.vm().clone();
    let refused = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), RING);
    let error = refused.err().map(|error| error.to_string());
    let text = "Ring { bytes: 4096 } cannot be enabled: EINVAL";
    assert_eq!(error.as_deref(), Some(text));
}
