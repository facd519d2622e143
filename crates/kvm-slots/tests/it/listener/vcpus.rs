// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commits for which a listener holds the vCPUs, and recovery after a failure that
//! could not be undone.

use crate::common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::machine::ranges_of;
use common::watched::{Watched, of_slot};
use common::{ABI, HOST, PAGE};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{Errno, HoldVcpus, SlotListener, SlotRules, Slots, slot_ranges};
use memory_model::{
    HostMemory, Listener, ListenerError, Memory, MemoryModel, Region, RegionId, SpaceId, Update,
};

/// vCPUs that can be held, and how often they were.
#[derive(Clone, Debug, Default)]
struct Vcpus {
    held: Arc<AtomicUsize>,
    times: Arc<AtomicUsize>,
}

struct Held(Vcpus);

impl HoldVcpus for Vcpus {
    type Held = Held;

    fn hold(&self) -> Held {
        assert_eq!(self.held.fetch_add(1, Ordering::SeqCst), 0, "held twice");
        self.times.fetch_add(1, Ordering::SeqCst);
        Held(self.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Refuses on request.
#[derive(Debug, Default)]
struct Refuses(Mutex<bool>);

impl Listener<()> for Refuses {
    fn name(&self) -> &str {
        "refuses"
    }

    fn prepare(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// When the slots have changed.
    fn apply(&self, _update: &Update<'_, ()>) -> Result<(), ListenerError> {
        match *self.0.lock().unwrap() {
            true => Err("on request".into()),
            false => Ok(()),
        }
    }
}

/// RAM with a BAR above it and one that can hide the RAM's middle.
struct Machine {
    model: MemoryModel,
    space: SpaceId,
    bar: RegionId,
    hole: RegionId,
    slots: Arc<SlotListener<Watched<SimVm>, Vcpus>>,
    vcpus: Vcpus,
    refuses: Arc<Refuses>,
}

impl Machine {
    fn new(rules: SlotRules) -> Self {
        let memory = |address, size| {
            // SAFETY: nothing is mapped there, and the simulated KVM copies.
            let host = unsafe { HostMemory::new(address, size, Arc::new(())) };
            Memory::host_only(host.unwrap())
        };
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 64)).unwrap();
        let ram = t.add(Region::ram("ram", memory(HOST, 8 * PAGE))).unwrap();
        t.place(ram, root, 0, 0).unwrap();
        let bar = Region::ram("bar", memory(HOST + 0x10_0000, PAGE));
        let bar = t.add(bar).unwrap();
        t.place(bar, root, 0x10_0000, 0).unwrap();
        let hole = t.add(Region::mmio("hole", PAGE.into())).unwrap();
        t.set_enabled(hole, false).unwrap();
        t.place(hole, root, 4 * PAGE, 1).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();

        let vm = SimVm::new(SimConfig {
            abi: ABI,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let (vcpus, refuses) = (Vcpus::default(), Arc::new(Refuses::default()));
        // SAFETY: no guest loads or stores, so no one accesses the addresses.
        let slots = unsafe { Slots::new(Watched::new(vm), ABI) }.with_rules(rules);
        let slots = Arc::new(SlotListener::new(slots, vcpus.clone()));
        model.add_listener(space, 0, slots.clone()).unwrap();
        model.add_listener(space, -1, refuses.clone()).unwrap();
        Self {
            model,
            space,
            bar,
            hole,
            slots,
            vcpus,
            refuses,
        }
    }

    /// Moves the BAR while the ioctls that `fail` numbers fail.
    fn move_bar(&mut self, to: u64, fail: &[usize]) -> bool {
        self.fail(fail);
        let mut t = self.model.transaction();
        t.move_to(self.bar, to).unwrap();
        t.commit().is_ok()
    }

    /// Makes the hole in the RAM, or closes it: a delete and two creates, or
    /// two deletes and a create.
    fn set_hole(&mut self, there: bool, fail: &[usize]) -> bool {
        self.fail(fail);
        let mut t = self.model.transaction();
        t.set_enabled(self.hole, there).unwrap();
        t.commit().is_ok()
    }

    fn fail(&self, calls: &[usize]) {
        let fail = calls.iter().map(|&call| (call, Errno::ENOMEM));
        self.slots.vm().start(fail);
    }

    fn refuse(&self, refuse: bool) {
        *self.refuses.0.lock().unwrap() = refuse;
    }

    /// How often vCPUs were held since the last time; none is now.
    fn times_held(&self) -> usize {
        assert_eq!(self.vcpus.held.load(Ordering::SeqCst), 0);
        self.vcpus.times.swap(0, Ordering::SeqCst)
    }

    /// Checks that the table, the VM and the view agree.
    fn is_in_step(&self) -> bool {
        let table = self.slots.table();
        let expected = table
            .slots()
            .map(|slot| (slot.id().into(), of_slot(slot, 1 << 4)));
        assert_eq!(self.slots.vm().slots(), expected.collect());
        ranges_of(&table) == slot_ranges(&self.model.view(self.space))
    }
}

#[test]
fn vcpus_are_held_when_memory_in_use_has_a_gap_and_at_no_other_time() {
    let mut machine = Machine::new(SlotRules::new());
    // The first slots, and a move.
    assert!(machine.move_bar(0x20_0000, &[]));
    assert_eq!(machine.times_held(), 0);
    assert!(machine.set_hole(true, &[]));
    assert_eq!(machine.times_held(), 1);
    assert!(machine.move_bar(0x10_0000, &[]));
    assert_eq!(machine.times_held(), 0);
    assert!(machine.set_hole(false, &[]));
    assert_eq!(machine.times_held(), 1);
    assert!(machine.is_in_step());
}

#[test]
fn vcpus_run_again_after_every_failure() {
    let mut machine = Machine::new(SlotRules::new());
    for call in 0..3 {
        assert!(!machine.set_hole(true, &[call]));
        assert_eq!(machine.times_held(), 1);
        assert!(machine.is_in_step());
    }
    // Also where nothing can be undone.
    assert!(!machine.set_hole(true, &[1, 2]));
    assert_eq!(machine.times_held(), 1);
    assert!(!machine.is_in_step());
}

#[test]
fn vcpus_stay_held_while_a_gap_is_undone() {
    let mut machine = Machine::new(SlotRules::new());
    machine.refuse(true);
    assert!(!machine.set_hole(true, &[]));
    assert_eq!(machine.times_held(), 1);
    assert!(!machine.move_bar(0x20_0000, &[]));
    assert_eq!(machine.times_held(), 0);
    assert!(machine.is_in_step());
}

#[test]
fn the_next_transaction_corrects_steps_that_could_not_be_undone() {
    let mut machine = Machine::new(SlotRules::new());
    // The delete succeeds. The create and the rollback fail.
    assert!(!machine.set_hole(true, &[1, 2]));
    assert!(!machine.is_in_step());
    // If another listener refuses, the slots return to that state.
    machine.refuse(true);
    assert!(!machine.move_bar(0x20_0000, &[]));
    assert!(!machine.is_in_step());
    machine.refuse(false);
    assert!(machine.move_bar(0x20_0000, &[]));
    assert!(machine.is_in_step());

    // The next commit also corrects a failed abort.
    machine.refuse(true);
    assert!(!machine.set_hole(true, &[3]));
    machine.refuse(false);
    assert!(!machine.is_in_step());
    assert!(machine.move_bar(0x10_0000, &[]));
    assert!(machine.is_in_step());
}

#[test]
fn a_transaction_makes_no_more_calls_than_it_changes_slots() {
    let mut machine = Machine::new(SlotRules::new());
    for (to, calls) in [(0x20_0000, 1), (0x20_0000, 0), (0x10_0000, 1)] {
        assert!(machine.move_bar(to, &[]));
        assert_eq!(machine.slots.vm().calls().len(), calls);
    }
}

#[test]
fn a_listener_keeps_to_its_rules() {
    let rules = SlotRules::new()
        .reserving(0..=9)
        .with_max_slot_size(4 * PAGE);
    let mut machine = Machine::new(rules);
    let ids = |machine: &Machine| -> Vec<u16> {
        let table = machine.slots.table();
        table.slots().map(|slot| slot.id()).collect()
    };
    assert_eq!(ids(&machine), [10, 11, 12]);
    // The hole is in the upper half of the RAM; the lower one stays.
    assert!(machine.set_hole(true, &[]));
    assert_eq!(machine.slots.vm().calls().len(), 2);
    assert_eq!(ids(&machine), [10, 11, 12]);
}
