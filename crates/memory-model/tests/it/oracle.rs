// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random transactions, compared address by address with a naive model.

use proptest::prelude::*;

use support::model_oracle::ops::steps;
use support::model_oracle::twins::Twins;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(320))]

    #[test]
    fn after_every_transaction_both_models_agree_on_every_address(
        (unit, steps) in steps()
    ) {
        let mut twins = Twins::new(unit);
        for step in steps {
            twins.step(step);
        }
    }
}
