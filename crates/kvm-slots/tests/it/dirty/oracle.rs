// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random guests under dirty tracking: no page is lost, none is reported twice.

use crate::common;

use std::collections::BTreeSet;

use common::migration::{Migration, Step, kind, small_step, step};
use kvm_slots::dirty::DirtyMode;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_copy_is_complete_whatever_happens_between_two_ioctls(
        kind in kind(),
        steps in prop::collection::vec(step(), 0..60),
        meanwhile in prop::collection::vec(small_step(), 0..200),
    ) {
        let mut migration = Migration::new(kind);
        migration.vm.meanwhile().steps.extend(meanwhile);
        for step in &steps {
            migration.step(step);
        }
        prop_assert_eq!(migration.finish(), Vec::<u64>::new());
    }

    #[test]
    fn written_pages_are_reported_once_and_others_never(
        kind in kind(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        // Initially set logs report more on purpose. If KVM refuses an operation, a
        // log that was read for it may be read again.
        let initially_set = DirtyMode::ManualProtect { initially_set: true };
        prop_assume!(kind.0 != initially_set);
        let mut migration = Migration::new(kind);
        for step in steps {
            match step {
                Step::Slots(slots, _) => migration.step(&Step::Slots(slots, None)),
                Step::Copy => {
                    migration.collect_final();
                    let written = migration.vm.meanwhile().written.clone();
                    migration.vm.meanwhile().taken.clear();
                    migration.step(&Step::Copy);
                    prop_assert_eq!(&migration.vm.meanwhile().taken, &written);
                    prop_assert_eq!(&migration.vm.meanwhile().written, &BTreeSet::new());
                }
                step => migration.step(&step),
            }
        }
    }
}
