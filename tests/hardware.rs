// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hardware tests for `cargo test`. A test that this machine cannot run is
//! listed as ignored, with the reason.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use tests::hardware::{self, Ended};
use tests::needs::Host;
use tests::syscalls;

fn main() -> ExitCode {
    if let Some(code) = syscalls::of_traced_child() {
        return code;
    }
    let arguments = Arguments::from_args();
    let host = Host::probe();
    let trials = hardware::all().into_iter().map(|test| {
        let missing = test.needs.iter().find_map(|need| host.lacks(*need));
        let trial = Trial::ignorable_test(test.name.clone(), move || {
            Ok(match test.run(&|_| {})? {
                Ended::Passed => Completion::Completed,
                Ended::Skipped(why) | Ended::Unsteady(why) => Completion::ignored_with(why),
                Ended::KnownFailure(why) => {
                    Completion::ignored_with(format!("known failure: {why}"))
                }
            })
        });
        match missing {
            Some(why) => trial
                .with_kind(format!("skipped: {why}"))
                .with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
