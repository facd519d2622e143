// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A plan made from other slots leaves the dirty logs of the current slots alone.

use crate::common;

use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::guest::NoExits;
use common::hooked::{DirtyIoctl, Hooked, Hooks};
use common::pages::Pages;
use common::{PAGE, logged, ram};
use kvm_slots::dirty::{DirtyClient, DirtyCollector, DirtyMode};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Capabilities, Errno, Plan, SlotRange, Slots, StepError};

const SIZE: u64 = 16 * PAGE;

/// Counts the reads of logs.
#[derive(Debug, Default)]
struct Reads(AtomicU32);

impl Hooks for Reads {
    fn before_memslot(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn before(&self, ioctl: DirtyIoctl) -> Result<(), Errno> {
        if ioctl == DirtyIoctl::Get {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

struct Machine {
    sim: SimVm,
    reads: Arc<Reads>,
    slots: Slots<Hooked<Reads>>,
    collector: Arc<DirtyCollector<Hooked<Reads>>>,
    client: DirtyClient,
}

impl Machine {
    fn new() -> Self {
        let sim = SimVm::new(SimConfig::released(KernelVersion::V7_3));
        let reads = Arc::<Reads>::default();
        let vm = Hooked::new(sim.clone(), reads.clone());
        let capabilities = Capabilities::probe(&sim);
        let collector = DirtyCollector::new(vm.clone(), &capabilities, DirtyMode::Log);
        let collector = Arc::new(collector.unwrap());
        // SAFETY: all slots are made through this value.
        let slots = unsafe { Slots::new(vm, AbiProfile::None) };
        Self {
            client: collector.tracker().client(),
            slots: slots.with_watcher(collector.clone()),
            collector,
            reads,
            sim,
        }
    }

    fn change(&mut self, ranges: &[SlotRange]) {
        let plan = self.slots.plan(ranges).unwrap();
        self.slots.apply(&plan).unwrap();
    }

    /// Applies a plan that must be stale. Returns how many logs that read.
    fn apply_stale(&mut self, plan: &Plan) -> u32 {
        let before = self.reads.0.load(Ordering::Relaxed);
        let error = self.slots.apply(plan).unwrap_err();
        assert_eq!((error.why, error.not_undone), (StepError::Stale(0), vec![]));
        self.reads.0.load(Ordering::Relaxed) - before
    }
}

/// The plans that end the log of `old`: by its deletion, its flag, or a move.
fn plans_that_end_the_log(slots: &Slots<Hooked<Reads>>, old: u64) -> Vec<Plan> {
    let targets = [
        vec![],
        vec![ram(0, SIZE, old)],
        vec![ram(4 * SIZE, SIZE, old)],
    ];
    let plans: Vec<_> = targets.iter().map(|to| slots.plan(to).unwrap()).collect();
    assert!(plans.iter().all(|plan| plan.ops()[0].ends_log().is_some()));
    plans
}

#[test]
fn a_stale_plan_neither_clears_the_log_of_the_current_slot_nor_reports_its_pages_as_old_memory() {
    for n in 0..3 {
        let [old, new] = [0; 2].map(|_| Pages::new(0x10000));
        let mut m = Machine::new();
        m.change(&[logged(ram(0, SIZE, old.address()))]);
        let plan = plans_that_end_the_log(&m.slots, old.address()).remove(n);
        m.change(&[]);
        m.change(&[logged(ram(0, SIZE, new.address()))]);
        m.sim.guest_store(3 * PAGE, &[1], &mut NoExits).unwrap();
        assert_eq!(m.apply_stale(&plan), 0, "{plan:?}");
        m.collector.collect(m.slots.table()).unwrap();
        let written: Vec<_> = m.client.take_all().runs().collect();
        let [run] = written[..] else {
            panic!("{written:?}");
        };
        let page = new.address() + 3 * PAGE;
        assert_eq!((run.start(), run.last()), (page, page + PAGE - 1));
    }
}

#[test]
fn a_plan_for_a_slot_that_was_deleted_is_stale_and_no_log_is_read() {
    for n in 0..3 {
        let old = Pages::new(0x10000);
        let range = logged(ram(0, SIZE, old.address()));
        let mut m = Machine::new();
        m.change(from_ref(&range));
        let plan = plans_that_end_the_log(&m.slots, old.address()).remove(n);
        m.change(&[]);
        assert_eq!(m.apply_stale(&plan), 0, "{plan:?}");
    }
}
