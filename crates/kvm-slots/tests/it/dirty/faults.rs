// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty logs and rings of kernels with errors.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use common::guest::Guest;
use common::hooked::{DirtyIoctl, Hooked, Hooks, PaperRing};
use common::pages::Pages;
use common::{PAGE, logged, ram, table};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_slots::dirty::{
    DirtyClient, DirtyCollector, DirtyEntry, DirtyError, DirtyMode, LoggingVm, OpWatcher, RingId,
};
use kvm_slots::exit::GuestFault;
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{Capabilities, Errno, Op, SlotTable};

const PAGES: u64 = 200;
const RING: DirtyMode = DirtyMode::Ring { bytes: 4096 };
/// The number of entries that the guest fills before it exits.
const FULL: u64 = 192;

/// The error of the kernel.
#[derive(Debug, Default)]
struct Faults {
    /// The number of resets that do nothing.
    idle_resets: AtomicU32,
    no_clear: AtomicBool,
    no_reset: AtomicBool,
}

impl Hooks for Faults {
    fn before(&self, ioctl: DirtyIoctl) -> Result<(), Errno> {
        match ioctl {
            DirtyIoctl::Clear if self.no_clear.load(Ordering::Relaxed) => Err(Errno::EFAULT),
            DirtyIoctl::Reset if self.no_reset.load(Ordering::Relaxed) => Err(Errno::EIO),
            _ => Ok(()),
        }
    }

    fn is_idle(&self) -> bool {
        let one_less = |n: u32| n.checked_sub(1);
        let idle = &self.idle_resets;
        idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }
}

/// A guest with memory that logs, at 0.
struct Machine {
    guest: Guest,
    faults: Arc<Faults>,
    collector: DirtyCollector<Hooked<Faults>>,
    client: DirtyClient,
    table: SlotTable,
    ring: Option<RingId>,
    host: u64,
}

impl Machine {
    fn new(mode: DirtyMode) -> Self {
        let mut guest = Guest::new(SimConfig::released(KernelVersion::V7_3));
        let (sim, faults) = (guest.vm().clone(), Arc::<Faults>::default());
        let vm = Hooked::new(sim.clone(), faults.clone());
        let collector = DirtyCollector::new(vm, &Capabilities::probe(&sim), mode).unwrap();
        let ring = sim.dirty_ring().ok();
        let ring = ring.map(|ring| collector.add_ring(Box::new(ring)));
        let pages = Arc::new(Pages::new(200 * 4096));
        guest.ram(0, 0, KVM_MEM_LOG_DIRTY_PAGES, &pages);
        let host = pages.address();
        Self {
            client: collector.tracker().client(),
            table: table(&[&[logged(ram(0, PAGES * PAGE, host))]]),
            guest,
            faults,
            collector,
            ring,
            host,
        }
    }

    fn store(&mut self, pages: impl IntoIterator<Item = u64>) {
        for page in pages {
            self.guest.store(page * PAGE, &[1]).expect("memory");
        }
    }

    fn is_full(&mut self) -> bool {
        self.guest.store(0, &[1]) == Err(GuestFault::DirtyRingFull)
    }

    fn collect(&self) -> Result<(), DirtyError> {
        self.collector.collect(&self.table)
    }

    fn make_room(&self) -> Result<(), DirtyError> {
        self.collector.make_room(&self.table, self.ring.unwrap())
    }

    /// The pages that the client takes, by number.
    fn taken(&self) -> Vec<u64> {
        let taken = self.client.take_all();
        let page = |host: u64| (host - self.host) / PAGE;
        let runs = taken.runs();
        runs.flat_map(|run| page(run.start())..=page(run.last()))
            .collect()
    }
}

#[test]
fn an_entry_that_the_kernel_skips_in_a_ring_is_an_error_from_then_on() {
    let mut m = Machine::new(RING);
    m.store([3]);
    m.guest.vm().skip_ring_entries(1).unwrap();
    m.store([5, 7]);
    let skipped = DirtyError::Skipped {
        ring: m.ring.unwrap(),
        position: 1,
    };
    assert_eq!(m.collect(), Err(skipped.clone()));
    assert_eq!(m.taken(), [3]);
    assert_eq!(m.collect(), Err(skipped.clone()));
    // It fills up, and is never harvested again.
    m.store(8..198);
    assert!(m.is_full());
    assert_eq!(m.make_room(), Err(skipped));
    assert!(m.taken().is_empty());
    let slot = m.table.slots().next().unwrap().clone();
    let deletion = m.collector.before(&Op::Delete(slot), &m.table);
    assert_eq!(deletion, Err(Errno::EIO));
}

#[test]
fn a_ring_that_is_full_with_no_entry_in_it_is_an_error() {
    let mut m = Machine::new(RING);
    // Entries that were harvested earlier do not count.
    m.store(0..FULL);
    m.make_room().unwrap();
    m.guest.vm().skip_ring_entries(4096).unwrap();
    m.store(0..FULL);
    assert!(m.is_full());
    // There is nothing to see in the ring itself.
    assert_eq!(m.collect(), Ok(()));
    let full = DirtyError::StaysFull(m.ring.unwrap());
    assert_eq!(m.make_room(), Err(full));
}

#[test]
fn a_full_ring_that_another_thread_has_harvested_is_no_error() {
    let mut m = Machine::new(RING);
    for round in 0..3 {
        m.store(0..FULL);
        assert!(m.is_full(), "round {round}");
        m.collect().unwrap();
        m.make_room().unwrap();
        assert_eq!(m.taken(), Vec::from_iter(0..FULL));
    }
}

#[test]
fn an_interrupted_reset_is_tried_again_and_one_without_progress_is_an_error() {
    let mut m = Machine::new(RING);
    m.store([3, 4]);
    m.faults.idle_resets.store(2, Ordering::Relaxed);
    m.collect().unwrap();
    assert_eq!(m.taken(), [3, 4]);
    // Pages that were reset are reported again.
    m.store([3]);
    m.faults.idle_resets.store(u32::MAX, Ordering::Relaxed);
    assert_eq!(m.collect(), Err(DirtyError::NotReset { left: 1 }));
    assert_eq!(m.taken(), [3]);
    m.store([3, 9]);
    assert_eq!(m.collect(), Err(DirtyError::NotReset { left: 2 }));
    assert_eq!(m.taken(), [9]);
    m.faults.idle_resets.store(0, Ordering::Relaxed);
    m.collect().unwrap();
    m.store([3]);
    m.collect().unwrap();
    assert_eq!(m.taken(), [3]);
}

#[test]
fn harvested_pages_are_kept_if_the_reset_fails() {
    let mut m = Machine::new(RING);
    m.store([3]);
    m.faults.no_reset.store(true, Ordering::Relaxed);
    assert_eq!(m.collect(), Err(DirtyError::Reset(Errno::EIO)));
    assert_eq!(m.taken(), [3]);
    m.faults.no_reset.store(false, Ordering::Relaxed);
    m.collect().unwrap();
    m.store([3]);
    m.collect().unwrap();
    assert_eq!(m.taken(), [3]);
}

#[test]
fn memory_is_tracked_once_its_slot_is_about_to_log_or_was_collected() {
    for mode in [DirtyMode::Log, RING] {
        let m = Machine::new(mode);
        let tracker = m.collector.tracker();
        assert!(!tracker.mark(m.host, 1));
        let slot = m.table.slots().next().unwrap().clone();
        let creation = Op::Create(slot);
        m.collector.before(&creation, &SlotTable::new()).unwrap();
        assert!(tracker.mark(m.host, 1));
        assert_eq!(m.taken(), [0]);

        let m = Machine::new(mode);
        m.collect().unwrap();
        assert!(m.collector.tracker().mark(m.host + PAGE, 1));
        assert_eq!(m.taken(), [1]);
    }
    // Also where its log cannot be read.
    let m = Machine::new(DirtyMode::Log);
    m.guest.vm().enable_dirty_ring(4096).unwrap();
    let errno = Errno::ENXIO;
    assert_eq!(m.collect(), Err(DirtyError::Get { slot: 0, errno }));
    assert!(m.collector.tracker().mark(m.host, 1));
}

#[test]
fn rings_behind_one_that_lacks_an_entry_are_harvested() {
    let paper = |entries, skipped| Box::new(PaperRing { entries, skipped });
    let m = Machine::new(RING);
    let entry = DirtyEntry { slot: 0, page: 3 };
    let stuck = m.collector.add_ring(paper(vec![], Some(17)));
    m.collector.add_ring(paper(vec![entry], None));
    let skipped = DirtyError::Skipped {
        ring: stuck,
        position: 17,
    };
    assert_eq!(m.collect(), Err(skipped));
    assert_eq!(m.taken(), [3]);
}

#[test]
fn a_log_that_cannot_be_cleared_is_kept_and_reported_again() {
    let mut m = Machine::new(DirtyMode::ManualProtect {
        initially_set: false,
    });
    m.store([3, 70]);
    m.faults.no_clear.store(true, Ordering::Relaxed);
    let error = DirtyError::Clear {
        slot: 0,
        first_page: 0,
        errno: Errno::EFAULT,
    };
    assert_eq!(m.collect(), Err(error));
    assert_eq!(m.taken(), [3, 70]);
    m.faults.no_clear.store(false, Ordering::Relaxed);
    m.collect().unwrap();
    assert_eq!(m.taken(), [3, 70]);
    m.collect().unwrap();
    assert!(m.taken().is_empty());
}
