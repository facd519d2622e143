// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM or a watcher panics in the middle of a plan. The slots are unchanged, or the
//! table has their state and the next change corrects them.

use crate::common;

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::machine::{check, ranges_of};
use common::random::{NO_FDS, Pick, picks, ranges};
use common::watched::Watched;
use common::{ABI, HOST, PAGE, able, ram};
use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::dirty::OpWatcher;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AddressBits, Errno, GuestMemfdFlags, HoldVcpus, Op, PageSize, SlotListener, SlotRange,
    SlotTable, Slots, Vm, slot_ranges,
};
use memory_model::{AddrRange, HostMemory, Memory, MemoryModel, Region, RegionId, SpaceId};
use proptest::prelude::*;

/// When a call panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    /// The watcher, before the operation.
    Watcher,
    /// The VM, before it carries the operation out.
    Before,
    /// The VM, after it has carried the operation out.
    After,
}

const WHEN: [When; 3] = [When::Watcher, When::Before, When::After];

/// Panics at one call, and optionally before every later call.
#[derive(Clone, Debug, Default)]
struct Bomb(Arc<Mutex<Fuse>>);

#[derive(Debug, Default)]
struct Fuse {
    armed: Option<(When, usize)>,
    goes_on: bool,
    calls: [usize; 3],
}

impl Bomb {
    fn arm(&self, when: When, call: usize, goes_on: bool) {
        *self.0.lock().unwrap() = Fuse {
            armed: Some((when, call)),
            goes_on,
            calls: [0; 3],
        };
    }

    fn disarm(&self) {
        *self.0.lock().unwrap() = Fuse::default();
    }

    fn tick(&self, when: When) {
        let mut fuse = self.0.lock().unwrap();
        let call = &mut fuse.calls[when as usize];
        let number = *call;
        *call += 1;
        let goes_off = match fuse.armed {
            Some((armed, at)) if armed == when && number == at => true,
            // From now on the VM does nothing.
            Some((armed, at)) if fuse.goes_on && number > at => when == armed.min(When::Before),
            _ => false,
        };
        drop(fuse);
        if goes_off {
            // Without the message of a panic.
            resume_unwind(Box::new("the bomb"));
        }
    }
}

impl OpWatcher for Bomb {
    fn before(&self, _op: &Op, _table: &SlotTable) -> Result<(), Errno> {
        self.tick(When::Watcher);
        Ok(())
    }
}

/// A VM with a bomb in it.
#[derive(Debug)]
struct Panicking {
    vm: Watched<SimVm>,
    bomb: Bomb,
}

impl Panicking {
    fn new() -> Self {
        let vm = SimVm::new(SimConfig {
            abi: ABI,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        Self {
            vm: Watched::new(vm),
            bomb: Bomb::default(),
        }
    }

    fn around(&self, call: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        self.bomb.tick(When::Before);
        let result = call();
        self.bomb.tick(When::After);
        result
    }
}

impl Vm for Panicking {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        self.around(|| unsafe { self.vm.set_user_memory_region2(region) })
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        self.around(|| unsafe { self.vm.set_user_memory_region(region) })
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.vm.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> PageSize {
        self.vm.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        self.around(|| self.vm.set_memory_attributes(gpa, size, attributes))
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.vm.address_bits()
    }
}

/// The slots of a VM with a bomb, which also watches.
fn slots() -> (Slots<Panicking>, Bomb) {
    let vm = Panicking::new();
    let bomb = vm.bomb.clone();
    // SAFETY: no guest loads or stores, so no one touches the addresses.
    let slots = unsafe { Slots::new(vm, ABI) };
    let slots = slots.with_capabilities(able());
    (slots.with_watcher(Arc::new(bomb.clone())), bomb)
}

/// Changes the slots to `target`; `Err` if something panics.
fn change(slots: &mut Slots<Panicking>, target: &[SlotRange]) -> std::thread::Result<()> {
    let plan = slots.plan(target).expect("a plan");
    catch_unwind(AssertUnwindSafe(|| {
        slots.apply(&plan).expect("nothing is refused");
    }))
}

/// Sets of ordinary memory: the simulated kernel has no files here.
fn memory(set: &[Pick]) -> Vec<SlotRange> {
    let all = ranges(set, NO_FDS).into_iter();
    all.filter(|range| range.backing().file().is_none())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_panic_within_a_plan_leaves_the_slots_as_they_were(old in picks(), new in picks()) {
        let (old, new) = (memory(&old), memory(&new));
        for when in WHEN {
            for call in 0.. {
                let (mut slots, bomb) = slots();
                change(&mut slots, &old).unwrap();
                let before = slots.table().clone();
                bomb.arm(when, call, false);
                if change(&mut slots, &new).is_ok() {
                    break;
                }
                prop_assert_eq!(slots.table(), &before);
                check(&slots.vm().vm, slots.table(), ABI);
                bomb.disarm();
                change(&mut slots, &new).unwrap();
                check(&slots.vm().vm, slots.table(), ABI);
            }
        }
    }

    #[test]
    fn repeated_panics_leave_a_table_that_later_changes_correct(
        old in picks(),
        new in picks(),
    ) {
        let (old, new) = (memory(&old), memory(&new));
        for when in WHEN {
            for call in 0.. {
                let (mut slots, bomb) = slots();
                change(&mut slots, &old).unwrap();
                bomb.arm(when, call, true);
                if change(&mut slots, &new).is_ok() {
                    break;
                }
                bomb.disarm();
                change(&mut slots, &new).unwrap();
                prop_assert_eq!(&ranges_of(slots.table()), &new);
                check(&slots.vm().vm, slots.table(), ABI);
            }
        }
    }
}

/// Counts whether vCPUs are held.
#[derive(Clone, Debug, Default)]
struct Vcpus(Arc<AtomicBool>);

struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl HoldVcpus for Vcpus {
    type Held = Held;

    fn hold(&self) -> Held {
        assert!(!self.0.swap(true, Ordering::SeqCst), "held twice");
        Held(self.0.clone())
    }
}

/// RAM with a hole that can be closed.
struct Rig {
    model: MemoryModel,
    space: SpaceId,
    hole: RegionId,
    slots: Arc<SlotListener<Panicking, Vcpus>>,
    vcpus: Vcpus,
    bomb: Bomb,
}

impl Rig {
    fn new() -> Self {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("memory", 1 << 32)).unwrap();
        // SAFETY: nothing is mapped there, and the simulated KVM copies.
        let host = unsafe { HostMemory::new(HOST, 8 * PAGE, Arc::new(())) }.unwrap();
        let ram = t.add(Region::ram("ram", Memory::host_only(host))).unwrap();
        t.place(ram, root, 0, 0).unwrap();
        let hole = t.add(Region::mmio("hole", PAGE.into())).unwrap();
        t.place(hole, root, 4 * PAGE, 1).unwrap();
        t.set_enabled(hole, false).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let (vm, vcpus) = (Panicking::new(), Vcpus::default());
        let bomb = vm.bomb.clone();
        // SAFETY: no guest loads or stores, so no one touches the addresses.
        let slots = unsafe { Slots::new(vm, ABI) }.with_watcher(Arc::new(bomb.clone()));
        let slots = Arc::new(SlotListener::new(slots, vcpus.clone()));
        model.add_listener(space, 0, slots.clone()).unwrap();
        Self {
            model,
            space,
            hole,
            slots,
            vcpus,
            bomb,
        }
    }

    fn set_hole(&mut self, there: bool) -> std::thread::Result<()> {
        let mut t = self.model.transaction();
        t.set_enabled(self.hole, there).unwrap();
        catch_unwind(AssertUnwindSafe(|| t.commit().unwrap()))
    }

    fn check(&self) {
        let table = self.slots.table();
        assert_eq!(ranges_of(&table), slot_ranges(&self.model.view(self.space)));
        check(&self.slots.vm().vm, &table, ABI);
    }
}

#[test]
fn a_commit_in_which_a_listeners_vm_or_watcher_panics_changes_nothing() {
    for when in WHEN {
        for call in 0..3 {
            let mut rig = Rig::new();
            rig.bomb.arm(when, call, false);
            rig.set_hole(true).unwrap_err();
            assert!(!rig.vcpus.0.load(Ordering::SeqCst), "vCPUs run again");
            rig.check();
            rig.bomb.disarm();
            rig.set_hole(true).unwrap();
            rig.check();
        }
    }
}

#[test]
fn the_next_commit_corrects_what_a_panic_kept_from_being_undone() {
    for when in WHEN {
        for call in 0..3 {
            let mut rig = Rig::new();
            rig.bomb.arm(when, call, true);
            rig.set_hole(true).unwrap_err();
            assert!(!rig.vcpus.0.load(Ordering::SeqCst), "vCPUs run again");
            rig.bomb.disarm();
            // Also one that has nothing to do with it.
            let mut t = rig.model.transaction();
            let root = t.add(Region::container("other", 1)).unwrap();
            t.remove(root).unwrap();
            t.commit().unwrap();
            rig.set_hole(true).unwrap();
            rig.check();
            rig.set_hole(false).unwrap();
            rig.check();
        }
    }
}

#[test]
fn a_commit_that_leaves_the_view_as_it_was_mends_the_slots_too() {
    let mut rig = Rig::new();
    rig.bomb.arm(When::Before, 1, true);
    rig.set_hole(true).unwrap_err();
    rig.bomb.disarm();
    // The RAM's slot is deleted. Nothing but what is attached to it changes.
    assert!(rig.slots.table().is_empty());
    let mut t = rig.model.transaction();
    t.set_enabled(rig.hole, true).unwrap();
    t.commit().unwrap();
    rig.check();
    rig.bomb.arm(When::Before, 1, true);
    rig.set_hole(false).unwrap_err();
    rig.bomb.disarm();
    let mut t = rig.model.transaction();
    let first = AddrRange::from_bounds(0, 7).unwrap();
    t.attach_coalesced(rig.hole, first).unwrap();
    t.commit().unwrap();
    rig.check();
}

#[test]
fn memory_that_a_vm_took_before_it_panicked_is_kept_until_the_slot_is_deleted() {
    let (mut slots, bomb) = slots();
    let owner = Arc::new(());
    let memory = kvm_slots::SlotBacking::Host(common::owned_host(HOST, owner.clone()));
    let range = common::range(0, PAGE, memory);
    bomb.arm(When::After, 0, true);
    change(&mut slots, &[range]).unwrap_err();
    // KVM has the slot, and it could not be deleted.
    assert_eq!(slots.vm().vm.vm.memslots().len(), 1);
    assert!(Arc::strong_count(&owner) > 1);
    bomb.disarm();
    change(&mut slots, &[ram(PAGE, PAGE, HOST + PAGE)]).unwrap();
    assert_eq!(slots.vm().vm.vm.memslots().len(), 1);
    assert_eq!(Arc::strong_count(&owner), 1);
}
