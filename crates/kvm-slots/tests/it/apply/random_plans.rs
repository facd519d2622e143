// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans of random changes, applied to a simulated VM.

use crate::common;

use common::machine::{Machine, ranges_of};
use common::random::{picks, ranges};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_simulated_kernel_takes_every_plan(sets in prop::collection::vec(picks(), 1..6)) {
        let mut machine = Machine::new();
        for set in sets {
            let target = ranges(&set, machine.fds());
            let plan = machine.plan(&target);
            let applied = machine.apply(&plan, []).unwrap();
            prop_assert_eq!(applied.ops(), plan.ops());
            prop_assert_eq!(ranges_of(machine.table()), target);
            machine.check();
        }
    }

    #[test]
    fn an_applied_plan_can_be_undone(old in picks(), new in picks()) {
        let mut machine = Machine::new();
        for set in [&old, &new] {
            let before = machine.table().clone();
            let plan = machine.plan(&ranges(set, machine.fds()));
            let applied = machine.apply(&plan, []).unwrap();
            prop_assert_eq!(machine.undo(applied, []), []);
            prop_assert_eq!(machine.table(), &before);
            machine.check();
            machine.apply(&plan, []).unwrap();
        }
    }
}
