// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The outcome of a run, for scripts and, in [`text`], for people.

pub mod text;

use memory_map::SlotRow;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Value, json};

use crate::machine::How;

/// How an access or action was resolved, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// How it was resolved. An action of the VMM that succeeded is direct.
    pub how: How,
    /// The value, or the kind of the error.
    pub value: Option<String>,
    /// A note for people; not compared.
    pub note: String,
}

impl Observation {
    /// An action that succeeded, with the value that it read, if any.
    pub fn done(value: Option<String>) -> Self {
        Self {
            how: How::Direct,
            value: Some(value.unwrap_or_else(|| "done".into())),
            note: String::new(),
        }
    }

    /// With further notes.
    pub(crate) fn with_notes(mut self, more: Vec<String>) -> Self {
        for note in more {
            if !self.note.is_empty() {
                self.note += "; ";
            }
            self.note += &note;
        }
        self
    }

    /// An access or action that failed.
    pub fn error(what: String) -> Self {
        Self {
            how: How::Error,
            value: Some(what),
            note: String::new(),
        }
    }
}

/// One step: what was observed and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The number, from 1 on.
    pub n: usize,
    /// The word of the step in machine files.
    pub op: &'static str,
    /// The guest-physical address; of a region that moves, the new one. `None` if the
    /// region is not in the address space.
    pub gpa: Option<u64>,
    /// How many bytes.
    pub size: u128,
    /// The region at the address, or the one that changes.
    pub region: String,
    /// What was observed.
    pub seen: Observation,
    /// What was expected.
    pub expected: Observation,
    /// Whether this kernel does not support it; being refused is then expected.
    pub unsupported: bool,
    /// The memslot operations of the step.
    pub slot_ops: Vec<String>,
}

impl StepReport {
    /// Whether it went as expected. Without an expected value, any value will do.
    pub fn ok(&self) -> bool {
        let any_value = self.expected.value.is_none();
        self.seen.how == self.expected.how && (any_value || self.seen.value == self.expected.value)
    }
}

/// For scripts.
impl Serialize for StepReport {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("StepReport", 13)?;
        to.serialize_field("n", &self.n)?;
        to.serialize_field("op", self.op)?;
        let gpa = self.gpa.map(|gpa| format!("{gpa:#x}"));
        to.serialize_field("gpa", &gpa)?;
        to.serialize_field("size", &format_args!("{:#x}", self.size))?;
        to.serialize_field("how", self.seen.how.word())?;
        to.serialize_field("value", &self.seen.value)?;
        to.serialize_field("expected", &self.expected.value)?;
        to.serialize_field("ok", &self.ok())?;
        to.serialize_field("expected_how", self.expected.how.word())?;
        to.serialize_field("unsupported", &self.unsupported)?;
        to.serialize_field("region", &self.region)?;
        to.serialize_field("note", &self.seen.note)?;
        to.serialize_field("slot_ops", &self.slot_ops)?;
        to.end()
    }
}

/// How many memslot operations a report may hold: each takes some hundred bytes
/// until the report is printed.
const MAX_SLOT_OPS: usize = 500_000;

/// The steps of a report made too many memslot operations.
#[derive(Debug, thiserror::Error)]
#[error(
    "step {step}: the steps so far made more than {MAX_SLOT_OPS} memslot operations, the most that --json can report"
)]
pub struct TooManySlotOps {
    /// The number of the step, from 1 on.
    pub step: usize,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The machine's name.
    pub machine: String,
    /// `kvm` or `sim`.
    pub backend: &'static str,
    /// Why that backend.
    pub why_backend: String,
    /// The kernel.
    pub kernel: String,
    /// The steps.
    pub steps: Vec<StepReport>,
    /// How many memslot operations they made.
    pub slot_ops: usize,
    /// Regions that this kernel does not support, and why.
    pub unsupported: Vec<(String, String)>,
    /// The memslots before the first step.
    pub slots: Vec<SlotRow>,
    /// The memslots after the last step.
    pub slots_after: Vec<SlotRow>,
}

impl Report {
    /// Adds a step.
    ///
    /// # Errors
    /// [`TooManySlotOps`].
    pub fn push(&mut self, step: StepReport) -> Result<(), TooManySlotOps> {
        self.slot_ops += step.slot_ops.len();
        if self.slot_ops > MAX_SLOT_OPS {
            return Err(TooManySlotOps { step: step.n });
        }
        self.steps.push(step);
        Ok(())
    }

    /// Whether every step went as expected.
    pub fn ok(&self) -> bool {
        self.steps.iter().all(StepReport::ok)
    }
}

/// For scripts. The steps are serialized one by one, because a report can be large.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let refusal = |(region, why): &(String, String)| json!({"region": region, "why": why});
        let unsupported: Vec<Value> = self.unsupported.iter().map(refusal).collect();
        let mut to = to.serialize_struct("Report", 9)?;
        to.serialize_field("backend", self.backend)?;
        to.serialize_field("why_backend", &self.why_backend)?;
        to.serialize_field("kernel", &self.kernel)?;
        to.serialize_field("machine", &self.machine)?;
        to.serialize_field("unsupported", &unsupported)?;
        to.serialize_field("steps", &self.steps)?;
        to.serialize_field("slots", &self.slots)?;
        to.serialize_field("slots_after", &self.slots_after)?;
        to.serialize_field("ok", &self.ok())?;
        to.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_a_limited_number_of_memslot_operations() {
        let mut report = Report {
            machine: String::new(),
            backend: "sim",
            why_backend: String::new(),
            kernel: String::new(),
            steps: Vec::new(),
            slot_ops: 0,
            unsupported: Vec::new(),
            slots: Vec::new(),
            slots_after: Vec::new(),
        };
        let mut push = |n, ops| {
            let seen = Observation::done(None);
            report.push(StepReport {
                n,
                op: "move",
                gpa: None,
                size: 0,
                region: String::new(),
                seen: seen.clone(),
                expected: seen,
                unsupported: false,
                slot_ops: vec![String::new(); ops],
            })
        };
        assert!(push(1, MAX_SLOT_OPS).is_ok());
        assert!(push(2, 0).is_ok());
        let error = push(3, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "step 3: the steps so far made more than 500000 memslot operations, \
             the most that --json can report"
        );
    }
}
