// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is left after the kernel refuses a step, whichever step it is.

mod common;

use std::collections::BTreeMap;

use common::machine::Machine;
use common::random::{Pick, picks, ranges};
use common::{HOST, PAGE, device, ram};
use kvm_slots::{Errno, Op, Plan};
use proptest::prelude::*;

const ERRNOS: [Errno; 3] = [Errno::EINVAL, Errno::ENOMEM, Errno::EEXIST];

/// A VM that has the ranges `old`, and the plan to the ranges `new`.
fn transaction(old: &[Pick], new: &[Pick]) -> (Machine, Plan) {
    let mut machine = Machine::new();
    let old = ranges(old, machine.fds());
    let _ = machine.apply(&machine.plan(&old), []).unwrap();
    let plan = machine.plan(&ranges(new, machine.fds()));
    (machine, plan)
}

proptest! {
    #[test]
    fn a_refused_step_leaves_everything_as_it_was(old in picks(), new in picks()) {
        let (mut machine, plan) = transaction(&old, &new);
        let (before, told) = (machine.table.clone(), machine.vm.slots());
        for (step, op) in plan.ops.iter().enumerate() {
            for errno in ERRNOS {
                let error = machine.apply(&plan, [(step, errno)]).unwrap_err();
                prop_assert_eq!(&error.op, op);
                prop_assert_eq!(error.errno, errno);
                prop_assert_eq!(error.not_undone, []);
                prop_assert_eq!(&machine.table, &before);
                prop_assert_eq!(machine.vm.slots(), told.clone());
            }
            machine.check();
        }
        // And it still works.
        prop_assert!(machine.apply(&plan, []).is_ok());
        machine.check();
    }

    #[test]
    fn what_cannot_be_undone_is_named_and_the_table_stays_true(
        old in picks(),
        new in picks(),
        step in any::<prop::sample::Index>(),
        refused in prop::collection::vec(any::<bool>(), 32),
    ) {
        let (mut machine, plan) = transaction(&old, &new);
        prop_assume!(!plan.ops.is_empty());
        let step = step.index(plan.ops.len());
        let undoing = refused.iter().enumerate().filter(|(_, refused)| **refused);
        let mut fail: BTreeMap<usize, Errno> =
            undoing.map(|(n, _)| (step + 1 + n, Errno::EIO)).collect();
        fail.insert(step, Errno::ENOMEM);

        let error = machine.apply(&plan, fail).unwrap_err();
        let calls = machine.vm.calls();
        prop_assert_eq!(error.errno, Errno::ENOMEM);
        prop_assert_eq!(calls.len(), 2 * step + 1, "each step is undone, or tried to be");
        let undone = plan.ops[..step].iter().rev().map(Op::inverse);
        let outcomes = undone.zip(&calls[step + 1..]);
        let refused: Vec<(Op, Errno)> =
            outcomes.filter_map(|(op, result)| Some((op, result.err()?))).collect();
        prop_assert_eq!(error.not_undone, refused);
        machine.check();
    }
}

#[test]
fn the_errors_text_says_what_failed_and_what_is_left() {
    let mut machine = Machine::new();
    let plan = machine.plan(&[ram(0, PAGE, HOST), ram(0x8000, PAGE, HOST + PAGE)]);
    let error = machine
        .apply(&plan, [(1, Errno::ENOMEM), (2, Errno::EIO)])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "CREATE slot 1 at 0x8000, 0x1000 bytes: ENOMEM; not undone: DELETE slot 0 at 0x0 (EIO)"
    );
    assert_eq!(machine.table.len(), 1);
    machine.check();
}

#[test]
fn a_place_that_could_not_be_freed_again_keeps_others_from_coming_back() {
    let mut machine = Machine::new();
    let (ram_at, bar_at) = (
        ram(0, PAGE, HOST),
        device(PAGE, PAGE, machine.fds().dma_buf, 0),
    );
    let _ = machine.apply(&machine.plan(&[ram_at, bar_at]), []).unwrap();
    // The BAR goes, RAM moves onto its place, and something new is refused.
    let plan = machine.plan(&[ram(PAGE, PAGE, HOST), ram(0, PAGE, HOST + PAGE)]);
    let [Op::Delete(bar), back @ Op::Move { .. }, Op::Create(_)] = &plan.ops[..] else {
        panic!("{plan:?}");
    };
    let error = machine
        .apply(&plan, [(2, Errno::ENOMEM), (3, Errno::EIO)])
        .unwrap_err();
    assert_eq!(
        error.not_undone,
        [
            (back.inverse(), Errno::EIO),
            (Op::Create(bar.clone()), Errno::EEXIST),
        ]
    );
    machine.check();
}
