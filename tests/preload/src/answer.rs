// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a system call is answered.

use kvm_slots::Errno;

/// The answer to a system call of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It succeeds with this value.
    Value(isize),
    /// It fails with this error.
    Error(Errno),
    /// It is not simulated: the subtest ends.
    NotSimulated,
}

impl Answer {
    /// The answer of a call that returns 0 if it succeeds.
    pub fn of(result: Result<(), Errno>) -> Self {
        match result {
            Ok(()) => Self::Value(0),
            Err(error) => Self::Error(error),
        }
    }
}

/// A call, by name, and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The name of the call, for the report.
    pub call: &'static str,
    /// The answer.
    pub answer: Answer,
}

impl Answered {
    /// The call is not simulated.
    pub fn not_simulated(call: &'static str) -> Self {
        let answer = Answer::NotSimulated;
        Self { call, answer }
    }
}
