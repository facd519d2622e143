// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs tests under Miri, which detects data races and undefined behaviour. It
//! tries schedules and orders of memory accesses that this machine would not.

use crate::shell::{Step, run_all, succeeds};

/// How to install Miri.
const INSTALL: &str =
    "rustup toolchain install nightly --profile minimal --component miri --component rust-src";

/// The schedules of tests with threads.
const SEEDS: &str = "-Zmiri-many-seeds=0..12";

/// The tests access the host: page size, environment, regression files.
const NO_ISOLATION: &str = "-Zmiri-disable-isolation";

/// A test without threads that takes minutes under Miri. The tests of
/// memory-model make fewer steps there by themselves.
const SLOW: &str = "ten_thousand_bars";

/// Runs a selection: readers next to a writer, all unit tests of memory-model,
/// transactions, and the planner.
pub fn run() -> Result<(), String> {
    // This also builds Miri's standard library, once.
    if !succeeds("cargo", &["+nightly", "miri", "setup"]) {
        return Err(format!("Miri is missing: {INSTALL}"));
    }
    run_all(&[
        miri(
            "readers under Miri",
            &["-p", "memory-model", "--test", "it"],
        )
        .with(&["readers::threads::"])
        .env("MIRIFLAGS", &format!("{NO_ISOLATION} {SEEDS}")),
        miri("memory-model under Miri", &["-p", "memory-model", "--lib"]),
        miri(
            "transactions under Miri",
            &["-p", "memory-model", "--test", "it"],
        )
        .with(&["transactions::all_or_nothing::"]),
        miri(
            "the order of listeners under Miri",
            &["-p", "memory-model", "--test", "it"],
        )
        .with(&["listeners::order::"]),
        miri("planner under Miri", &["-p", "kvm-slots", "--test", "it"]).with(&[
            "plan::operations::",
            "--skip",
            SLOW,
        ]),
    ])
}

fn miri(name: &str, tests: &[&str]) -> Step {
    Step::rustup_cargo(name, &["+nightly", "miri", "test"])
        .env("MIRIFLAGS", NO_ISOLATION)
        .env("PROPTEST_CASES", "4")
        .with(tests)
        .with(&["--"])
        .requiring_tests()
}
