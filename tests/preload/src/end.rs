// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Returns answers to the program, and ends what needs a call that is not simulated.

use std::process;

use kvm_slots::Errno;

use crate::answer::Answer;
use crate::frames::{self, Frame};
use crate::raw;
use crate::report::EXIT_ENDED;
use crate::state::{self, Outcome};

/// What the C library's function returns. If the call is not simulated, the subtest
/// that made it ends instead.
pub(crate) fn finish(outcome: Outcome) -> isize {
    match outcome.answered.answer {
        Answer::Value(value) => value,
        Answer::Error(error) => failed(error),
        Answer::NotSimulated => match caller_that_goes_on(outcome) {
            // SAFETY: the frame is one of this thread's, below this call. It called a
            // function of KVM_PRELOAD_SUBTESTS, which lists functions that return
            // nothing. Between that and this library, `State::subtest` has found
            // only functions of the program, which is written in C. The functions of
            // this library on the stack, an interposed one and this one, have nothing
            // to drop: `outcome` was moved.
            Some(caller) => unsafe { frames::return_to(caller) },
            None => exit(),
        },
    }
}

/// Sets `errno` and returns -1.
pub(crate) fn failed(error: Errno) -> isize {
    // SAFETY: the location is this thread's, and an integer at any time.
    unsafe { *libc::__errno_location() = error.0 };
    -1
}

/// Says what ends, and returns where the program goes on.
fn caller_that_goes_on(outcome: Outcome) -> Option<Frame> {
    let (call, subtest) = (outcome.answered.call, outcome.subtest);
    let subtest = subtest.as_deref().unwrap_or("the program");
    raw::say(&format!(
        "kvm-preload: {subtest} ends: {call} is not simulated\n"
    ));
    // What a child process returns could be taken for a success.
    outcome.caller.filter(|_| is_first_process())
}

fn is_first_process() -> bool {
    state::inside(|state| state.process == process::id()) == Some(true)
}

fn exit() -> ! {
    match is_first_process() {
        // Runs the handler that writes the report.
        true => process::exit(EXIT_ENDED),
        // SAFETY: ends the process at once, which is always possible.
        false => unsafe { libc::_exit(EXIT_ENDED) },
    }
}
