// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests under Miri, which sees data races and undefined behaviour, and tries
//! other schedules and other orders of memory accesses than this machine would.

use crate::shell::{Step, run_all, succeeds};

/// How to get it.
const INSTALL: &str =
    "rustup toolchain install nightly --profile minimal --component miri --component rust-src";

/// Schedules of the tests with threads.
const SEEDS: &str = "-Zmiri-many-seeds=0..12";

/// They look at the host: page size, environment, where regressions are kept.
const NO_ISOLATION: &str = "-Zmiri-disable-isolation";

/// A test that takes minutes there, and has no threads. Those of memory-model
/// make fewer steps there themselves.
const SLOW: &str = "ten_thousand_bars";

/// Runs what is worth it: readers beside a writer, what a commit is made of
/// with all unit tests, the planner.
pub fn run() -> Result<(), String> {
    // This builds its standard library too, once.
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
        .with(&["transactions::all_or_nothing::", "listeners::order::"]),
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
}
