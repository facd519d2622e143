// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dropping [`Slots`] deletes the slots, or leaks the owners of their memory.

use crate::common;

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{HOST, PAGE};
use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, AddressBits, Errno, GuestMemfdFlags, PageSize, SlotBacking, SlotRange, SlotRules,
    Slots, Vm,
};

/// How the VM answers a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletes {
    Work,
    Fail(Errno),
    PanicBefore,
    PanicAfter,
}

/// A simulated VM that refuses to delete the slot with this number.
#[derive(Clone, Debug)]
struct Stubborn {
    sim: SimVm,
    id: u32,
    deletes: Deletes,
    /// The creation of any slot panics, once KVM has the slot.
    creates_panic: Arc<AtomicBool>,
}

impl Vm for Stubborn {
    fn check_extension(&self, capability: u32) -> i32 {
        self.sim.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        let deletes = match (region.memory_size, region.slot == self.id) {
            (0, true) => self.deletes,
            _ => Deletes::Work,
        };
        match deletes {
            Deletes::Fail(errno) => return Err(errno),
            // Without the message of a panic.
            Deletes::PanicBefore => resume_unwind(Box::new("before")),
            Deletes::Work | Deletes::PanicAfter => {}
        }
        // SAFETY: passed on from the caller.
        unsafe { self.sim.set_user_memory_region2(region) }?;
        let create = region.memory_size > 0 && self.creates_panic.load(Ordering::SeqCst);
        if create || deletes == Deletes::PanicAfter {
            resume_unwind(Box::new("after"));
        }
        Ok(())
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.sim.set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.sim.create_guest_memfd(size, flags)
    }

    fn page_size(&self) -> PageSize {
        self.sim.page_size()
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        self.sim.set_memory_attributes(gpa, size, attributes)
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.sim.address_bits()
    }
}

type Owners = [Arc<()>; 3];

/// Three slots and their owners, on a VM that answers one deletion so.
fn three_slots(id: u32, deletes: Deletes) -> (Slots<Stubborn>, Owners) {
    let vm = Stubborn {
        sim: SimVm::new(SimConfig::released(KernelVersion::V7_3)),
        id,
        deletes,
        creates_panic: Arc::default(),
    };
    // SAFETY: no guest loads or stores, so no one touches the addresses.
    let mut slots = unsafe { Slots::new(vm, AbiProfile::None) };
    let owners = Owners::default();
    let ranges: Vec<SlotRange> = owners.iter().zip(0..).map(owned).collect();
    slots.apply(&slots.plan(&ranges).unwrap()).unwrap();
    (slots, owners)
}

/// A page of its own for each number.
fn owned((owner, number): (&Arc<()>, u64)) -> SlotRange {
    let memory = common::owned_host(HOST + number * PAGE, owner.clone());
    common::range(2 * number * PAGE, PAGE, SlotBacking::Host(memory))
}

/// How many slots have each owner.
fn holders(owners: &Owners) -> [usize; 3] {
    owners.each_ref().map(|owner| Arc::strong_count(owner) - 1)
}

/// The numbers of the slots that KVM has.
fn in_kvm(sim: &SimVm) -> Vec<u16> {
    sim.memslots().iter().filter_map(|slot| slot.id).collect()
}

#[test]
fn dropping_the_slots_deletes_them_and_drops_their_owners() {
    let (slots, owners) = three_slots(0, Deletes::Work);
    let sim = slots.vm().sim.clone();
    assert_eq!((in_kvm(&sim), holders(&owners)), (vec![0, 1, 2], [1, 1, 1]));
    drop(slots);
    assert_eq!((in_kvm(&sim), holders(&owners)), (vec![], [0, 0, 0]));
}

#[test]
fn a_refused_delete_leaks_the_owner_of_that_slot_alone() {
    for errno in [Errno::EIO, Errno::EINTR, Errno::EINVAL, Errno::ENOENT] {
        let (slots, owners) = three_slots(1, Deletes::Fail(errno));
        let sim = slots.vm().sim.clone();
        drop(slots);
        assert_eq!((in_kvm(&sim), holders(&owners)), (vec![1], [0, 1, 0]));
    }
}

#[test]
fn a_vm_that_panics_while_the_slots_are_dropped_leaks_the_owner_alone() {
    for (deletes, left) in [
        (Deletes::PanicBefore, vec![1]),
        // The owner is kept: it is unknown whether the slot is deleted.
        (Deletes::PanicAfter, vec![]),
    ] {
        let (slots, owners) = three_slots(1, deletes);
        let sim = slots.vm().sim.clone();
        drop(slots);
        assert_eq!((in_kvm(&sim), holders(&owners)), (left, [0, 1, 0]));
    }
}

#[test]
fn a_vm_that_panics_while_another_panic_drops_the_slots_does_not_abort() {
    let (slots, owners) = three_slots(1, Deletes::PanicBefore);
    let sim = slots.vm().sim.clone();
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _slots = slots;
        resume_unwind(Box::new("another"));
    }));
    assert!(unwound.is_err());
    assert_eq!((in_kvm(&sim), holders(&owners)), (vec![1], [0, 1, 0]));
}

#[test]
fn a_slot_that_a_panic_left_behind_is_deleted_or_leaked_too() {
    // The number of the new slot, and what is left of it.
    for (deletes, left) in [
        (Deletes::Work, vec![]),
        (Deletes::Fail(Errno::EIO), vec![3]),
    ] {
        let (mut slots, owners) = three_slots(3, deletes);
        let sim = slots.vm().sim.clone();
        let owner = Arc::new(());
        let mut ranges: Vec<SlotRange> = owners.iter().zip(0..).map(owned).collect();
        ranges.push(owned((&owner, 3)));
        let plan = slots.plan(&ranges).unwrap();
        ranges.clear();
        slots.vm().creates_panic.store(true, Ordering::SeqCst);
        // The panic's rollback may already delete the slot.
        let applied = catch_unwind(AssertUnwindSafe(|| slots.apply(&plan).is_ok()));
        assert!(applied.is_err());
        drop(plan);
        drop(slots);
        assert_eq!((in_kvm(&sim), holders(&owners)), (left.clone(), [0, 0, 0]));
        assert_eq!(Arc::strong_count(&owner) - 1, left.len());
    }
}

#[test]
fn rules_that_are_set_late_do_not_change_slots_and_their_numbers() {
    let (slots, owners) = three_slots(0, Deletes::Work);
    let mut slots = slots.with_rules(SlotRules::new().reserving(0..=4));
    assert_eq!((slots.table().len(), holders(&owners)), (3, [1, 1, 1]));
    let mut ranges: Vec<SlotRange> = owners.iter().zip(0..).map(owned).collect();
    ranges.push(common::ram(0x10_0000, PAGE, HOST + 0x10_0000));
    slots.apply(&slots.plan(&ranges).unwrap()).unwrap();
    assert_eq!(in_kvm(&slots.vm().sim), [0, 1, 2, 5]);
}
