// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slots after the kernel refuses a step, for every step and every error.

use crate::common;

use std::collections::BTreeMap;

use common::ABI;
use common::faults::possible;
use common::machine::{Machine, ranges_of};
use common::random::{Pick, picks, ranges};
use kvm_slots::{AbiProfile, Errno, NotUndone, Op, Plan, StepError};
use proptest::prelude::*;

/// How many random transactions there are of the first two kinds.
const TRANSACTIONS: u32 = 2000;

/// Every profile that has operations of its own.
fn abis() -> impl Strategy<Value = AbiProfile> {
    prop_oneof![
        Just(ABI),
        Just(AbiProfile::RFC_DMA_BUF_BIT_3),
        Just(AbiProfile::Push),
    ]
}

/// A VM that has the ranges `old`, and the plan to the ranges `new`.
fn transaction(abi: AbiProfile, old: &[Pick], new: &[Pick]) -> (Machine, Plan) {
    let mut machine = Machine::with(abi);
    let old = ranges(old, machine.fds());
    machine.apply(&machine.plan(&old), []).unwrap();
    let plan = machine.plan(&ranges(new, machine.fds()));
    (machine, plan)
}

/// Checks the result of undoing `ops` against the result of each call: a step is
/// refused, or skipped if a step that was not undone blocks it.
fn check_not_undone(ops: &[Op], not_undone: &[NotUndone], calls: &[Result<(), Errno>]) {
    let mut calls = calls.iter();
    let mut left = not_undone.iter().peekable();
    let mut untaken: Vec<&Op> = Vec::new();
    for back in ops.iter().rev().map(Op::inverse) {
        let failed = left.next_if(|step| step.op == back);
        match failed.map(|step| step.why) {
            None => assert_eq!(calls.next(), Some(&Ok(()))),
            Some(StepError::Refused(errno)) => assert_eq!(calls.next(), Some(&Err(errno))),
            Some(StepError::Stale(id)) => {
                let blocks = |op: &Op| match op {
                    Op::Create(slot) | Op::Delete(slot) => slot.id() == id,
                    Op::Move { to, .. } | Op::SetFlags { to, .. } => to.id() == id,
                    _ => false,
                };
                assert!(untaken.iter().any(|op| blocks(op)), "{back}: slot {id}");
            }
            Some(other) => panic!("{back}: {other}"),
        }
        if let Some(step) = failed {
            untaken.push(&step.op);
        }
    }
    assert_eq!((left.next(), calls.next()), (None, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(TRANSACTIONS))]

    #[test]
    fn a_refused_step_leaves_everything_as_it_was(
        abi in abis(),
        old in picks(),
        new in picks(),
    ) {
        let (mut machine, plan) = transaction(abi, &old, &new);
        let before = machine.table().clone();
        for (step, op) in plan.ops().iter().enumerate() {
            for errno in possible(op) {
                let error = machine.apply(&plan, [(step, errno)]).unwrap_err();
                prop_assert_eq!(&error.op, op);
                prop_assert_eq!(error.why, StepError::Refused(errno));
                prop_assert_eq!(error.not_undone, []);
                prop_assert_eq!(machine.table(), &before);
                machine.check();
            }
        }
        // And it still works.
        prop_assert!(machine.apply(&plan, []).is_ok());
        machine.check();
    }

    #[test]
    fn steps_that_cannot_be_undone_are_named_and_the_table_stays_true(
        abi in abis(),
        old in picks(),
        new in picks(),
        step in any::<prop::sample::Index>(),
        refused in prop::collection::vec(prop::bool::weighted(0.3), 32),
    ) {
        let (mut machine, plan) = transaction(abi, &old, &new);
        prop_assume!(!plan.ops().is_empty());
        let before = machine.table().clone();
        let step = step.index(plan.ops().len());
        let undoing = refused.iter().enumerate().filter(|(_, refused)| **refused);
        let mut fail: BTreeMap<usize, Errno> =
            undoing.map(|(n, _)| (step + 1 + n, Errno::EIO)).collect();
        fail.insert(step, Errno::ENOMEM);

        let error = machine.apply(&plan, fail).unwrap_err();
        prop_assert_eq!(error.why, StepError::Refused(Errno::ENOMEM));
        let calls = machine.vm().calls();
        check_not_undone(&plan.ops()[..step], &error.not_undone, &calls[step + 1..]);
        prop_assert_eq!(error.not_undone.is_empty(), *machine.table() == before);
        machine.check();
    }

}

proptest! {
    #[test]
    fn a_single_refusal_of_each_rollback_step_is_named(
        abi in abis(),
        old in picks(),
        new in picks(),
    ) {
        let steps = transaction(abi, &old, &new).1.ops().len();
        for step in 0..steps {
            let (mut machine, plan) = transaction(abi, &old, &new);
            let applied = machine.apply(&plan, []).unwrap();
            let not_undone = machine.undo(applied, [(step, Errno::EFAULT)]);
            let back = plan.ops()[plan.ops().len() - 1 - step].inverse();
            let why = StepError::Refused(Errno::EFAULT);
            prop_assert_eq!(&not_undone[0], &NotUndone { op: back, why });
            check_not_undone(plan.ops(), &not_undone, &machine.vm().calls());
            machine.check();
            // Planning from the table as it is leads back all the same.
            let target = ranges(&old, machine.fds());
            machine.apply(&machine.plan(&target), []).unwrap();
            prop_assert_eq!(ranges_of(machine.table()), target);
            machine.check();
        }
    }

    #[test]
    fn a_plan_from_another_table_does_nothing_or_has_its_usual_effect(
        older in picks(),
        old in picks(),
        new in picks(),
    ) {
        let (mut machine, stale) = transaction(ABI, &older, &new);
        let now = machine.plan(&ranges(&old, machine.fds()));
        machine.apply(&now, []).unwrap();
        let before = machine.table().clone();
        match machine.apply(&stale, []) {
            Ok(applied) => prop_assert_eq!(applied.ops(), stale.ops()),
            Err(error) => {
                prop_assert_eq!(error.not_undone, []);
                prop_assert_eq!(machine.table(), &before);
            }
        }
        machine.check();
    }
}
