// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs are held while a dirty log ends, and only where there is one.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::pages::Pages;
use kvm_slots::dirty::{DirtyCollector, DirtyMode, OpWatcher};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Capabilities, Errno, HoldVcpus, Op, SlotListener, SlotTable, Slots};
use memory_model::{
    DirtyClients, HostMemory, Listener, ListenerError, Memory, MemoryModel, Region, RegionId,
    SpaceId, Update,
};

/// vCPUs that can be held, and how often they were.
#[derive(Clone, Debug, Default)]
struct Vcpus(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    held: AtomicUsize,
    times: AtomicUsize,
}

#[derive(Debug)]
struct Held(Arc<Counts>);

impl HoldVcpus for Vcpus {
    type Held = Held;

    fn hold(&self) -> Held {
        self.0.held.fetch_add(1, Ordering::SeqCst);
        self.0.times.fetch_add(1, Ordering::SeqCst);
        Held(self.0.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Collects before operations, and sees whether vCPUs are held where a log ends.
#[derive(Debug)]
struct Watcher {
    collector: DirtyCollector<SimVm>,
    vcpus: Vcpus,
    ended: AtomicUsize,
}

impl OpWatcher for Watcher {
    fn before(&self, op: &Op, table: &SlotTable) -> Result<(), Errno> {
        if op.ends_log().is_some() {
            self.ended.fetch_add(1, Ordering::SeqCst);
            assert_eq!(self.vcpus.0.held.load(Ordering::SeqCst), 1, "{op}");
        }
        self.collector.before(op, table)
    }
}

/// Refuses while the flag is set.
#[derive(Debug, Default)]
struct Refuses(AtomicBool);

impl Listener<()> for Refuses {
    fn name(&self) -> &str {
        "refuses"
    }

    fn prepare(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// When the slots have changed.
    fn apply(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        match self.0.load(Ordering::SeqCst) {
            true => Err("the flag is set".into()),
            false => Ok(()),
        }
    }
}

/// RAM in a model that memslots follow.
struct Machine {
    model: MemoryModel,
    ram: RegionId,
    refuses: Arc<Refuses>,
    vcpus: Vcpus,
    watcher: Option<Arc<Watcher>>,
    slots: Arc<SlotListener<SimVm, Vcpus>>,
    space: SpaceId,
}

impl Machine {
    fn new(watched: bool) -> Self {
        let vm = SimVm::new(SimConfig::released(KernelVersion::V7_3));
        let vcpus = Vcpus::default();
        let pages = Arc::new(Pages::new(16 * 4096));
        // SAFETY: only the simulated KVM accesses it, by copies that can fail.
        let memory = unsafe { HostMemory::new(pages.address(), pages.size(), pages) }.unwrap();
        // SAFETY: the only host memory is a mapping of its own to which there are
        // no references, and which the model keeps. No guest runs.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        let collector = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), DirtyMode::Log);
        let watcher = watched.then(|| {
            Arc::new(Watcher {
                collector: collector.unwrap(),
                vcpus: vcpus.clone(),
                ended: AtomicUsize::default(),
            })
        });
        let slots = match &watcher {
            Some(watcher) => slots.with_watcher(watcher.clone()),
            None => slots,
        };
        let slots = SlotListener::new(slots, vcpus.clone());
        let (slots, refuses) = (Arc::new(slots), Arc::new(Refuses::default()));
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let ram = t
            .add(Region::ram("ram", Memory::host_only(memory)))
            .unwrap();
        t.place(ram, root, 0, 0).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        model.add_listener(space, 0, slots.clone()).unwrap();
        model.add_listener(space, -1, refuses.clone()).unwrap();
        Self {
            model,
            ram,
            refuses,
            vcpus,
            watcher,
            slots,
            space,
        }
    }

    /// Turns logging on or off; whether it was done.
    fn log(&mut self, on: bool, refuse: bool) -> bool {
        self.refuses.0.store(refuse, Ordering::SeqCst);
        let mut t = self.model.transaction();
        t.set_global_dirty_logging(match on {
            true => DirtyClients::MIGRATION,
            false => DirtyClients::NONE,
        });
        t.commit().is_ok()
    }

    /// How often vCPUs were held, and how many logs ended, since the last time.
    fn held_and_ended(&self) -> (usize, usize) {
        assert_eq!(self.vcpus.0.held.load(Ordering::SeqCst), 0);
        let ended = self.watcher.as_ref();
        let ended = ended.map_or(0, |watcher| watcher.ended.swap(0, Ordering::SeqCst));
        (self.vcpus.0.times.swap(0, Ordering::SeqCst), ended)
    }
}

#[test]
fn vcpus_are_held_while_a_log_ends_and_not_while_it_starts() {
    let mut m = Machine::new(true);
    assert_eq!(m.held_and_ended(), (0, 0));
    assert!(m.log(true, false));
    assert_eq!(m.held_and_ended(), (0, 0));
    assert!(m.log(false, false));
    assert_eq!(m.held_and_ended(), (1, 1));
}

#[test]
fn vcpus_are_held_while_a_log_ends_because_its_start_is_undone() {
    let mut m = Machine::new(true);
    assert!(!m.log(true, true));
    assert_eq!(m.held_and_ended(), (1, 1));
    // And not while one starts again because its end is undone.
    assert!(m.log(true, false));
    assert_eq!(m.held_and_ended(), (0, 0));
    assert!(!m.log(false, true));
    assert_eq!(m.held_and_ended(), (1, 1));
    assert!(m.slots.table().slots().all(|slot| slot.log_dirty()));
}

#[test]
fn vcpus_are_held_while_logging_memory_moves_away_or_is_removed() {
    let mut m = Machine::new(true);
    assert!(m.log(true, false));
    // A log moves along.
    let mut t = m.model.transaction();
    t.move_to(m.ram, 0x100_0000).unwrap();
    t.commit().unwrap();
    assert_eq!(m.held_and_ended(), (0, 0));
    let mut t = m.model.transaction();
    t.set_enabled(m.ram, false).unwrap();
    t.commit().unwrap();
    assert_eq!(m.held_and_ended(), (1, 1));
    assert!(m.model.view(m.space).is_empty());
}

#[test]
fn vcpus_are_not_held_for_a_log_without_a_watcher() {
    let mut m = Machine::new(false);
    for (on, refuse) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(m.log(on, refuse), !refuse);
        assert_eq!(m.held_and_ended(), (0, 0));
    }
}
