// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rollback steps that are blocked by a step that the kernel refused. They are skipped,
//! because KVM could interpret them as other operations.

use crate::common;

use common::machine::Machine;
use common::{HOST, PAGE, device, guest_memfd, ram};
use kvm_slots::{Errno, NotUndone, Op, Plan, SlotRange, StepError};

/// A VM that has these ranges, and the plan to others.
fn transaction(machine: &mut Machine, old: &[SlotRange], new: &[SlotRange]) -> Plan {
    machine.apply(&machine.plan(old), []).unwrap();
    machine.plan(new)
}

fn refused(op: Op) -> NotUndone {
    let why = StepError::Refused(Errno::EIO);
    NotUndone { op, why }
}

fn blocked(op: &Op, by: u16) -> NotUndone {
    let why = StepError::Stale(by);
    NotUndone {
        op: op.inverse(),
        why,
    }
}

#[test]
fn the_errors_text_names_the_failed_step_and_the_remaining_ones() {
    let mut machine = Machine::new();
    let plan = machine.plan(&[ram(0, PAGE, HOST), ram(0x8000, PAGE, HOST + PAGE)]);
    let error = machine
        .apply(&plan, [(1, Errno::ENOMEM), (2, Errno::EIO)])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "CREATE slot 1 at 0x8000, 0x1000 bytes: ENOMEM; not undone: DELETE slot 0 at 0x0 (EIO)"
    );
    assert_eq!(machine.table().len(), 1);
    machine.check();
}

#[test]
fn a_slot_is_not_recreated_with_the_number_of_one_that_could_not_be_deleted() {
    let mut machine = Machine::new();
    // Other memory in its place: another slot of the same number.
    let old = [ram(0x8000, 2 * PAGE, HOST)];
    let new = [
        ram(0x7000, 2 * PAGE, HOST + 0x8000),
        ram(0x9000, PAGE, HOST),
    ];
    let plan = transaction(&mut machine, &old, &new);
    let [delete @ Op::Delete(old), create @ Op::Create(new), _] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert_eq!(old.id(), new.id());
    let error = machine
        .apply(&plan, [(2, Errno::ENOMEM), (3, Errno::EIO)])
        .unwrap_err();
    assert_eq!(
        error.not_undone,
        [refused(create.inverse()), blocked(delete, new.id())]
    );
    assert_eq!(machine.vm().calls().len(), 4, "the last step is not tried");
    machine.check();
}

#[test]
fn a_slot_that_could_not_be_deleted_is_not_moved_by_a_create_of_the_same_memory() {
    let mut machine = Machine::new();
    // A cycle of two: one is deleted and recreated with the same number. The
    // last page of a third slot becomes other memory.
    let (a, b, c) = (HOST, HOST + PAGE, HOST + 0x8000);
    let old = [ram(0, PAGE, a), ram(PAGE, PAGE, b), ram(0x8000, PAGE, c)];
    let new = [
        ram(0, PAGE, b),
        ram(PAGE, PAGE, a),
        ram(0x8000, PAGE, c + PAGE),
    ];
    let plan = transaction(&mut machine, &old, &new);
    let [
        delete @ Op::Delete(_),
        Op::Delete(_),
        moved @ Op::Move { .. },
        create @ Op::Create(slot),
        _,
    ] = plan.ops()
    else {
        panic!("{plan:?}");
    };
    let error = machine
        .apply(&plan, [(4, Errno::ENOMEM), (5, Errno::EIO)])
        .unwrap_err();
    // The slot is where the other one should go back to, and has the number
    // that should be restored.
    assert_eq!(
        error.not_undone,
        [
            refused(create.inverse()),
            blocked(moved, slot.id()),
            blocked(delete, slot.id())
        ]
    );
    machine.check();
}

#[test]
fn a_place_that_could_not_be_freed_again_keeps_others_from_coming_back() {
    let mut machine = Machine::new();
    let (fd, _) = machine.fds().registers[0];
    let old = [ram(0, PAGE, HOST), device(PAGE, PAGE, fd, 0)];
    // The BAR is deleted, RAM moves to its address, and the new slot is refused.
    let new = [ram(PAGE, PAGE, HOST), ram(0, PAGE, HOST + PAGE)];
    let plan = transaction(&mut machine, &old, &new);
    let [
        delete @ Op::Delete(_),
        back @ Op::Move { to, .. },
        Op::Create(_),
    ] = plan.ops()
    else {
        panic!("{plan:?}");
    };
    let error = machine
        .apply(&plan, [(2, Errno::ENOMEM), (3, Errno::EIO)])
        .unwrap_err();
    assert_eq!(
        error.not_undone,
        [refused(back.inverse()), blocked(delete, to.id())]
    );
    machine.check();
}

#[test]
fn an_earlier_plan_is_undone_only_where_its_slots_are_unchanged() {
    let mut machine = Machine::new();
    let guest_memfd_at = |gpa| guest_memfd(gpa, PAGE, machine.fds().guest_memfd, 0);
    let (ram, first, second) = (
        ram(0, PAGE, HOST),
        guest_memfd_at(PAGE),
        guest_memfd_at(0x8000),
    );
    let _ = machine
        .apply(&machine.plan(std::slice::from_ref(&ram)), [])
        .unwrap();
    let early = machine
        .apply(&machine.plan(&[ram.clone(), first]), [])
        .unwrap();
    let late = machine.apply(&machine.plan(&[ram, second]), []).unwrap();
    let table = machine.table().clone();

    // The slot is another now, and stays.
    let [create] = early.ops() else {
        panic!("{early:?}");
    };
    let expected = blocked(create, 1);
    assert_eq!(machine.undo(early, []), [expected]);
    assert_eq!(machine.vm().calls(), []);
    assert_eq!(*machine.table(), table);
    machine.check();
    assert_eq!(machine.undo(late, []), []);
    machine.check();
}
