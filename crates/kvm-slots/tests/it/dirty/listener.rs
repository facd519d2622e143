// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking of slots that follow a view.

use crate::common;

use std::sync::Arc;

use common::PAGE;
use common::guest::NoExits;
use common::pages::Pages;
use kvm_slots::dirty::{DirtyClient, DirtyCollector, DirtyMode};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Capabilities, SlotListener, Slots, VcpusStopped};
use memory_model::{
    DirtyClients, HostMemory, Listener, ListenerError, Memory, MemoryModel, Region, RegionId,
    SpaceId, Update,
};

/// RAM of 16 pages in a model, with a VM that follows it and tracks writes.
struct Machine {
    vm: SimVm,
    model: MemoryModel,
    space: SpaceId,
    ram: RegionId,
    root: RegionId,
    slots: Arc<SlotListener<SimVm>>,
    collector: Arc<DirtyCollector<SimVm>>,
    client: DirtyClient,
    pages: Arc<Pages>,
}

impl Machine {
    fn new() -> Self {
        let vm = SimVm::new(SimConfig::released(KernelVersion::V7_3));
        let mode = DirtyMode::ManualProtect {
            initially_set: false,
        };
        let collector = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), mode);
        let collector = Arc::new(collector.unwrap());
        // SAFETY: the only host memory is `pages`, a mapping of its own to
        // which there are no references, and which the model keeps.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        let slots = slots.with_watcher(collector.clone());
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        let pages = Arc::new(Pages::new(16 * 4096));
        let (address, size) = (pages.address(), pages.size());
        // SAFETY: only the simulated KVM accesses it, by copies that can fail.
        let memory = unsafe { HostMemory::new(address, size, pages.clone()) }.unwrap();
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let ram = Region::ram("ram", Memory::host_only(memory));
        let ram = t.add(ram).unwrap();
        t.place(ram, root, 0, 0).unwrap();
        t.set_global_dirty_logging(DirtyClients::MIGRATION);
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        model.add_listener(space, 0, slots.clone()).unwrap();
        Self {
            client: collector.tracker().client(),
            vm,
            model,
            space,
            ram,
            root,
            slots,
            collector,
            pages,
        }
    }

    fn store(&self, gpa: u64) {
        self.vm.guest_store(gpa, &[1], &mut NoExits).unwrap();
    }

    /// The numbers of the pages that are taken after a collection.
    fn taken(&self) -> Vec<u64> {
        let collected = self.slots.with_table(|table| self.collector.collect(table));
        collected.unwrap();
        let taken = self.client.take_all();
        let page = |host: u64| (host - self.pages.address()) / PAGE;
        let runs = taken.runs();
        runs.flat_map(|run| page(run.start())..=page(run.last()))
            .collect()
    }
}

#[test]
fn a_log_is_kept_when_a_region_is_covered_moved_or_no_longer_logged() {
    let mut machine = Machine::new();
    machine.store(3 * PAGE);
    // A hole in the middle: one slot becomes two.
    let mut t = machine.model.transaction();
    let hole = t.add(Region::mmio("hole", u128::from(PAGE))).unwrap();
    t.place(hole, machine.root, 8 * PAGE, 1).unwrap();
    t.commit().unwrap();
    machine.store(9 * PAGE);
    assert_eq!(machine.taken(), [3, 9]);

    machine.store(15 * PAGE);
    let mut t = machine.model.transaction();
    t.unplace(hole).unwrap();
    t.move_to(machine.ram, 0x100_0000).unwrap();
    t.commit().unwrap();
    machine.store(0x100_0000);
    assert_eq!(machine.taken(), [0, 15]);

    machine.store(0x100_0000 + PAGE);
    let mut t = machine.model.transaction();
    t.set_global_dirty_logging(DirtyClients::NONE);
    t.commit().unwrap();
    assert_eq!(machine.taken(), [1]);
}

#[test]
fn a_log_is_kept_when_a_transaction_is_undone() {
    /// Lets the guest write while the slots are as they will not stay.
    struct Refuse(SimVm);

    impl Listener<()> for Refuse {
        fn name(&self) -> &str {
            "refuse"
        }

        fn prepare(&self, update: &Update<'_, ()>) -> Result<(), ListenerError> {
            if update.diff.is_empty() || update.old.is_empty() {
                return Ok(());
            }
            let stored = self.0.guest_store(9 * PAGE, &[1], &mut NoExits);
            stored.expect("memory behind the hole");
            Err("refused".into())
        }
    }

    let mut machine = Machine::new();
    let refuse = Arc::new(Refuse(machine.vm.clone()));
    machine
        .model
        .add_listener(machine.space, 1, refuse)
        .unwrap();
    machine.store(3 * PAGE);
    let mut t = machine.model.transaction();
    let hole = t.add(Region::mmio("hole", u128::from(PAGE))).unwrap();
    t.place(hole, machine.root, 8 * PAGE, 1).unwrap();
    assert!(t.commit().is_err());
    assert_eq!(machine.slots.table().len(), 1);
    machine.store(5 * PAGE);
    assert_eq!(machine.taken(), [3, 5, 9]);
}
