// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counts what was answered, and writes the report.
//!
//! Each line of the report has fields separated by tabs:
//!
//! | line | what it says |
//! | --- | --- |
//! | `answered SUBTEST CALL COUNT` | so many of these calls were answered, with success or an error |
//! | `ended SUBTEST CALL COUNT` | the call is not simulated, so the subtest ended |
//! | `status STATUS` | the program's exit status, before [`EXIT_ENDED`] replaces it |
//!
//! The last line is the status. Without it, the program was killed. The subtest `-`
//! stands for calls outside of all subtests.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::answer::{Answer, Answered};

/// The exit status of a program that succeeded, but had a subtest ended.
pub const EXIT_ENDED: i32 = 65;

/// What happened until now.
#[derive(Debug, Default)]
pub struct Report {
    answered: Counts,
    ended: Counts,
}

/// Counts by subtest and call.
type Counts = BTreeMap<(String, &'static str), u64>;

impl Report {
    /// Counts a call.
    pub fn count(&mut self, subtest: Option<&str>, answered: &Answered) {
        let counts = match answered.answer {
            Answer::NotSimulated => &mut self.ended,
            Answer::Value(_) | Answer::Error(_) => &mut self.answered,
        };
        let subtest = subtest.unwrap_or("-").to_string();
        *counts.entry((subtest, answered.call)).or_default() += 1;
    }

    /// Whether a subtest has ended early.
    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// The lines, for a program that exits.
    pub fn text(&self, status: i32) -> String {
        let mut text = String::new();
        for (what, counts) in [("answered", &self.answered), ("ended", &self.ended)] {
            for ((subtest, call), count) in counts {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{what}\t{subtest}\t{call}\t{count}");
            }
        }
        let _ = writeln!(text, "status\t{status}");
        text
    }
}
