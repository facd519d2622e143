// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Collecting, marking and taking dirty pages.

use crate::common;

use std::slice::from_ref;
use std::sync::Arc;

use common::hooked::{Hooked, Hooks, PaperRing};
use common::{HOST, PAGE, device, guest_memfd, logged, planned, ram, readonly, table};
use guest_ranges::AddrRange;
use kvm_bindings::KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP;
use kvm_slots::dirty::{
    DirtyCollector, DirtyEntry, DirtyError, DirtyMode, DirtyTracker, LoggingVm, Unlogged,
};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, Capabilities, Errno, PageSize, SlotRange, SlotTable, Slots, StepError,
};

const RING: DirtyMode = DirtyMode::Ring { bytes: 4096 };

/// A tracker of the memory of these slots.
fn tracker(table: &SlotTable) -> DirtyTracker {
    let tracker = DirtyTracker::new(PageSize::Size4K);
    table.slots().for_each(|slot| tracker.track(slot));
    tracker
}

fn run(host: u64, pages: u64) -> AddrRange {
    AddrRange::new(host, (pages * PAGE).into()).unwrap()
}

/// Sixteen pages at `gpa`, logged.
fn memory(gpa: u64) -> SlotTable {
    table(&[&[logged(ram(gpa, 16 * PAGE, HOST))]])
}

#[test]
fn pages_are_taken_once_and_at_the_address_of_their_slot() {
    let table = memory(0x10_0000);
    let tracker = tracker(&table);
    let client = tracker.client();
    assert!(tracker.mark(HOST + PAGE - 1, 2));
    assert!(tracker.mark_guest(&table, 0x10_0000 + 5 * PAGE, 8));
    let slot = table.get(0).unwrap();
    let pages = client.take_slot(slot);
    assert_eq!(pages.len(), 3);
    let text = format!("{pages:?}");
    assert!(
        text.contains(&format!("{:?}", run(HOST + 5 * PAGE, 1))),
        "{text}"
    );
    let runs: Vec<_> = pages.runs().collect();
    assert_eq!(runs, [run(HOST, 2), run(HOST + 5 * PAGE, 1)]);
    let guest: Vec<_> = pages.in_slot(slot).collect();
    assert_eq!(guest, [(0x10_0000, 2 * PAGE), (0x10_5000, PAGE)]);
    assert!(client.take_slot(slot).is_empty());
}

#[test]
fn every_client_gets_all_pages_written_since_it_was_added() {
    let table = memory(0);
    let tracker = tracker(&table);
    let first = tracker.client();
    tracker.mark(HOST, 1);
    let second = tracker.client();
    tracker.mark(HOST + 3 * PAGE, 1);
    assert_eq!(first.take_all().len(), 2);
    let pages = second.take_all();
    assert_eq!(pages.runs().collect::<Vec<_>>(), [run(HOST + 3 * PAGE, 1)]);
    // A transfer that failed.
    second.give_back(&pages);
    assert_eq!(second.take_all(), pages);
    assert!(first.take_all().is_empty());
}

#[test]
fn writes_to_untracked_memory_are_reported() {
    let table = table(&[&[
        logged(ram(0, 16 * PAGE, HOST)),
        guest_memfd(16 * PAGE, PAGE, 1000, 0),
    ]]);
    let tracker = tracker(&table);
    let client = tracker.client();
    assert!(!tracker.mark(HOST - 1, 2));
    assert!(!tracker.mark(0, u64::MAX));
    assert!(!tracker.mark(u64::MAX, 1));
    assert_eq!(client.take_all().len(), 16);
    // The last byte of the memory, and the first of the guest_memfd.
    assert!(!tracker.mark_guest(&table, 16 * PAGE - 1, 2));
    assert!(!tracker.mark_guest(&table, 0x100_0000, 1));
    assert!(tracker.mark_guest(&table, 0x100_0000, 0));
    let pages = client.take_all();
    assert_eq!(pages.runs().collect::<Vec<_>>(), [run(HOST + 15 * PAGE, 1)]);
}

#[test]
fn a_write_across_two_slots_is_tracked_in_both() {
    let low = logged(ram(0, 2 * PAGE, HOST));
    let high = logged(ram(2 * PAGE, 2 * PAGE, HOST + 0x10_0000));
    let table = table(&[&[low, high]]);
    let tracker = tracker(&table);
    let client = tracker.client();
    assert!(tracker.mark_guest(&table, 2 * PAGE - 1, 2));
    let runs: Vec<_> = client.take_all().runs().collect();
    assert_eq!(runs, [run(HOST + PAGE, 1), run(HOST + 0x10_0000, 1)]);
}

#[test]
fn memory_that_is_forgotten_is_of_no_interest() {
    let table = memory(0);
    let tracker = tracker(&table);
    let client = tracker.client();
    assert!(tracker.mark(HOST, 16 * PAGE));
    tracker.forget(HOST + 4 * PAGE, 100 * PAGE);
    assert!(!tracker.mark(HOST + 4 * PAGE, 1));
    let runs: Vec<_> = client.take_all().runs().collect();
    assert_eq!(runs, [run(HOST, 4)]);
}

#[test]
fn slots_that_no_log_covers_are_listed_with_the_reason() {
    let table = table(&[&[
        logged(ram(0, PAGE, HOST)),
        ram(PAGE, PAGE, HOST + PAGE),
        readonly(ram(2 * PAGE, PAGE, HOST + 2 * PAGE)),
        guest_memfd(3 * PAGE, PAGE, 1000, 0),
        device(4 * PAGE, PAGE, 1001, 0),
    ]]);
    let unlogged: Vec<_> = table.unlogged().map(|u| (u.slot.gpa(), u.why)).collect();
    let (file, mmio) = (Unlogged::GuestMemfd, Unlogged::PrivateMmio);
    assert_eq!(
        unlogged,
        [(PAGE, Unlogged::Off), (3 * PAGE, file), (4 * PAGE, mmio)]
    );
    let texts: Vec<_> = table.unlogged().map(|u| u.to_string()).collect();
    assert_eq!(
        texts[1],
        "0x1000 bytes at 0x3000 in slot 3: its pages are in a guest_memfd"
    );
}

#[test]
fn a_plan_knows_whether_a_log_ends_with_it() {
    let whole = logged(ram(0, 16 * PAGE, HOST));
    let moved = logged(ram(32 * PAGE, 16 * PAGE, HOST));
    let cut = logged(ram(0, 8 * PAGE, HOST));
    let off = ram(0, 16 * PAGE, HOST);
    let ends = |old: &SlotRange, new: &[SlotRange]| planned(from_ref(old), new).ends_log();
    assert!(!ends(&whole, &[moved]));
    assert!(ends(&whole, &[cut]));
    assert!(ends(&whole, &[]));
    assert!(ends(&whole, from_ref(&off)));
    assert!(!ends(&off, &[whole]));
}

/// A simulated VM that is used only for slots.
fn vm() -> (SimVm, Capabilities) {
    let vm = SimVm::new(SimConfig::released(KernelVersion::V7_3));
    let capabilities = Capabilities::probe(&vm);
    (vm, capabilities)
}

#[test]
fn an_operation_waits_for_its_log_and_is_refused_without_it() {
    let (sim, capabilities) = vm();
    let collector = DirtyCollector::new(sim, &capabilities, DirtyMode::Log).unwrap();
    // The slots are another VM's, so that there is no log to read.
    let (other, _) = vm();
    // SAFETY: no guest runs, so no one accesses the addresses.
    let slots = unsafe { Slots::new(other, AbiProfile::None) };
    let mut slots = slots.with_watcher(Arc::new(collector));
    let two = [logged(ram(0, PAGE, HOST)), ram(PAGE, PAGE, HOST + PAGE)];
    slots.apply(&slots.plan(&two).unwrap()).unwrap();
    let before = slots.table().clone();
    let error = slots.apply(&slots.plan(&[]).unwrap()).unwrap_err();
    assert_eq!(error.why, StepError::Refused(Errno::ENOENT));
    assert_eq!((error.not_undone, slots.table()), (vec![], &before));
}

#[test]
fn an_entry_of_a_ring_that_names_no_page_is_reported() {
    let (sim, capabilities) = vm();
    let collector = DirtyCollector::new(sim, &capabilities, RING).unwrap();
    let client = collector.tracker().client();
    let entry = |slot, page| DirtyEntry { slot, page };
    // In the order in which they are harvested, from the end on.
    for stray in [
        entry(0, 16),
        entry(0, u64::MAX),
        entry(1, 0),
        entry(1 << 16, 0),
    ] {
        collector.add_ring(Box::new(PaperRing {
            entries: vec![entry(0, 3), stray, entry(0, 15)],
            skipped: None,
        }));
        let error = collector.collect(&memory(0)).unwrap_err();
        assert_eq!(error, DirtyError::Stray(stray));
        let runs: Vec<_> = client.take_all().runs().collect();
        assert_eq!(runs, [run(HOST + 3 * PAGE, 1), run(HOST + 15 * PAGE, 1)]);
    }
}

#[test]
fn a_mode_that_the_kernel_does_not_have_is_refused() {
    let (sim, capabilities) = vm();
    sim.enable_dirty_ring(4096).unwrap();
    let error = DirtyCollector::new(sim, &capabilities, RING).unwrap_err();
    let errno = Errno::EINVAL;
    assert_eq!(error, DirtyError::Mode { mode: RING, errno });
}

/// A kernel that says that rings need a log, and refuses to enable one.
#[derive(Debug)]
struct NoLog;

impl Hooks for NoLog {
    fn extension(&self, capability: u32) -> Option<i32> {
        (capability == KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP).then_some(1)
    }
}

#[test]
fn rings_that_would_miss_writes_are_refused() {
    let (sim, capabilities) = vm();
    let kernel = Hooked::new(sim, Arc::new(NoLog));
    let error = DirtyCollector::new(kernel.clone(), &capabilities, RING).unwrap_err();
    let errno = Errno::EINVAL;
    assert_eq!(error, DirtyError::Mode { mode: RING, errno });
    assert!(DirtyCollector::new(kernel, &capabilities, DirtyMode::Log).is_ok());
}

#[test]
fn a_bitmap_marks_the_tracked_pages_of_its_bits() {
    let table = memory(0);
    let tracker = tracker(&table);
    let client = tracker.client();
    // From two pages before the memory on: the last bits are beyond it.
    tracker.mark_bitmap(HOST - 2 * PAGE, &[0b1011_0110 | 1 << 17 | 1 << 18, 1]);
    let pages = client.take_slot(table.get(0).unwrap());
    let runs: Vec<_> = pages.runs().collect();
    let expected = [
        run(HOST, 1),
        run(HOST + 2 * PAGE, 2),
        run(HOST + 5 * PAGE, 1),
        run(HOST + 15 * PAGE, 1),
    ];
    assert_eq!(runs, expected);
    tracker.mark_bitmap(u64::MAX - PAGE, &[u64::MAX]);
    tracker.mark_bitmap(HOST, &[]);
    assert!(client.take_slot(table.get(0).unwrap()).is_empty());
}

#[test]
fn rings_alone_have_no_log_to_read_in_the_last_collection() {
    let (sim, capabilities) = vm();
    let collector = DirtyCollector::new(sim.clone(), &capabilities, RING).unwrap();
    assert_eq!(sim.get_dirty_log(0), Err(Errno::ENXIO));
    assert_eq!(collector.collect_final(&memory(0)), Ok(()));
}

#[test]
fn a_client_that_is_dropped_costs_nothing_any_more() {
    let tracker = tracker(&memory(0));
    let client = tracker.client();
    assert!(tracker.mark(HOST, 1));
    assert!(!format!("{tracker:?}").contains("clients: {}"));
    drop(client);
    assert!(format!("{tracker:?}").contains("clients: {}"));
}

#[test]
fn rings_are_numbered_in_their_order() {
    let (sim, capabilities) = vm();
    let collector = DirtyCollector::new(sim, &capabilities, RING).unwrap();
    let numbers = [0, 1].map(|_| {
        let ring = PaperRing {
            entries: Vec::new(),
            skipped: None,
        };
        collector.add_ring(Box::new(ring)).to_string()
    });
    assert_eq!(numbers, ["0", "1"]);
}
