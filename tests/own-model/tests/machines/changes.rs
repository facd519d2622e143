// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changes of the model, and the memslots that follow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::{AddressBits, Errno, Op, PlanError, StepError};
use own_model::guest::Seen;
use own_model::{Refused, Region, What, page_size};

use crate::hosts::{Host, Machine, region, stamped};

const RAM: u64 = 0x10_0000;

/// A device in the middle of RAM.
fn hole(gpa: u64) -> Region {
    Region {
        priority: 1,
        ..region(9, gpa, 1, What::Trapped)
    }
}

pub fn the_guest_reaches_what_is_visible<V: Host>(mut machine: Machine<V>) {
    let (ram, rom) = (stamped(4), stamped(2));
    machine.change(|model| {
        model.add(region(1, RAM, 4, What::Ram(ram.clone())));
        model.add(Region {
            priority: 2,
            ..region(2, RAM + 3 * page_size(), 2, What::Rom(rom.clone()))
        });
    });
    machine.loads(RAM + 2 * page_size(), 3);
    machine.loads(RAM + 3 * page_size(), 1);
    machine.loads(RAM + 4 * page_size(), 2);
    machine.exits(RAM + 5 * page_size());
    machine.stores(RAM + 2 * page_size(), 77);
    assert_eq!(ram.get(2 * page_size()), Some(77));
    assert_eq!(machine.guest.store(RAM + 3 * page_size(), 78), Seen::Exit);
    assert_eq!(rom.get(0), Some(1));

    let split = machine.change(|model| model.add(hole(RAM + page_size())));
    assert!(split.held);
    machine.exits(RAM + page_size());
    machine.loads(RAM, 1);
    machine.loads(RAM + 2 * page_size(), 77);
    machine.change(|model| {
        model.remove(9);
        model.remove(2);
    });
    machine.loads(RAM + page_size(), 2);
    machine.loads(RAM + 3 * page_size(), 4);
    machine.exits(RAM + 4 * page_size());
    assert_eq!(machine.vmm.slots().table().len(), 1 + machine.code.len());
}

pub fn moving_memory_is_one_operation_and_holds_no_vcpu<V: Host>(mut machine: Machine<V>) {
    machine.change(|model| model.add(region(1, RAM, 2, What::Ram(stamped(2)))));
    let moved = machine.change(|model| model.move_to(1, 4 * RAM));
    assert!(
        matches!(moved.ops[..], [Op::Move { .. }]),
        "{:?}",
        moved.ops
    );
    assert!(!moved.held);
    machine.loads(4 * RAM + page_size(), 2);
    machine.exits(RAM);
    let nothing = machine.change(|_| {});
    assert_eq!(nothing.ops, []);
}

pub fn a_change_that_kvm_refuses_changes_nothing<V: Host>(mut machine: Machine<V>) {
    machine.change(|model| model.add(region(1, RAM, 2, What::Ram(stamped(2)))));
    // A slot that the hypervisor does not know is in the way.
    const TAKEN: u64 = 1 << 34;
    let other = stamped(1);
    let region_2 = kvm_userspace_memory_region2 {
        slot: 1000,
        guest_phys_addr: TAKEN,
        memory_size: page_size(),
        userspace_addr: other.address(),
        ..Default::default()
    };
    // SAFETY: `other` is a mapping of its own and outlives the last run of the
    // guest. The hypervisor has far fewer slots, so it never uses this number.
    unsafe { machine.vmm.vm().set_user_memory_region2(&region_2) }.unwrap();
    let before = machine.vmm.slots().table().clone();
    let refused = machine.vmm.change(|model| {
        model.add(hole(RAM + page_size()));
        model.add(region(3, TAKEN, 1, What::Ram(stamped(1))));
    });
    let Err(Refused::Apply(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(&error.op, Op::Create(slot) if slot.gpa() == TAKEN));
    assert_eq!(error.why, StepError::Refused(Errno::EEXIST));
    assert_eq!(error.not_undone, []);
    assert_eq!(machine.vmm.slots().table(), &before);
    machine.loads(RAM + page_size(), 2);
    // The next change starts from the old memory.
    machine.change(|model| model.add(hole(RAM)));
    machine.exits(RAM);
    machine.loads(RAM + page_size(), 2);
}

pub fn addresses_that_no_processor_has_are_refused_before_kvm_is_asked<V: Host>(
    mut machine: Machine<V>,
) {
    let refused = machine.vmm.change(|model| {
        model.add(region(3, 1 << 60, 1, What::Ram(stamped(1))));
    });
    let Err(Refused::Plan(PlanError::BeyondAddresses { gpa, bits, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(gpa, 1 << 60);
    let known = machine.vmm.slots().capabilities().address_bits;
    assert_eq!(known, Some(AddressBits::Exact(bits)));
}

pub fn a_change_that_the_hypervisor_refuses_is_rolled_back<V: Host>(mut machine: Machine<V>) {
    machine.change(|model| {
        model.add(region(1, RAM, 2, What::Ram(stamped(2))));
        model.add(region(2, 2 * RAM, 3, What::Rom(stamped(3))));
    });
    let before = machine.vmm.slots().table().clone();
    let refused = machine.vmm.change_if(
        |model| {
            model.move_to(1, 2 * RAM + page_size());
            model.remove(2);
        },
        || false,
    );
    assert!(matches!(&refused, Err(Refused::RolledBack(left)) if left.is_empty()));
    assert_eq!(machine.vmm.slots().table(), &before);
    assert_eq!(machine.vmm.model().regions.len(), 2 + machine.code.len());
    machine.loads(RAM + page_size(), 2);
    machine.loads(2 * RAM + 2 * page_size(), 3);
    let again = machine.vmm.slots().plan(&machine.vmm.model().shows());
    assert_eq!(again.expect("a plan").ops(), []);
}

pub fn a_vcpu_never_sees_a_gap_in_its_ram<V: Host>(mut machine: Machine<V>) {
    const ROUNDS: u32 = 1000;
    machine.change(|model| model.add(region(1, RAM, 8, What::Ram(stamped(8)))));
    let (gate, stop, loads) = (
        machine.vmm.gate(),
        AtomicBool::new(false),
        AtomicU64::new(0),
    );
    let (guest, vmm) = (&mut machine.guest, &mut machine.vmm);
    let saw = thread::scope(|scope| {
        let vcpu = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let entered = gate.enter();
                let seen = guest.load(RAM + 6 * page_size());
                drop(entered);
                if seen != Seen::Direct(7) {
                    return Some(seen);
                }
                loads.fetch_add(1, Ordering::Relaxed);
                // Otherwise the vCPU would keep the lock forever.
                thread::yield_now();
            }
            None
        });
        let mut round = 0;
        while round < ROUNDS && !vcpu.is_finished() {
            let change = match round % 2 {
                0 => vmm.change(|model| model.add(hole(RAM + 3 * page_size()))),
                _ => vmm.change(|model| model.remove(9)),
            };
            if !change.is_ok_and(|change| change.held) {
                break;
            }
            round += 1;
            // Whoever runs would keep the lock for long.
            let before = loads.load(Ordering::Relaxed);
            while loads.load(Ordering::Relaxed) < before + 2 && !vcpu.is_finished() {
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(round == ROUNDS || vcpu.is_finished(), "round {round}");
        vcpu.join().expect("the vCPU's thread")
    });
    assert_eq!(saw, None);
}
