// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The outcome of a run, for scripts and, in [`text`], for people.

pub mod text;

use memory_map::SlotRow;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Value, json};

use crate::machine::How;

/// How something was resolved and which value it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// How it was resolved. What the VMM did itself is direct if it was done.
    pub how: How,
    /// The value, or what kind of error it was.
    pub value: Option<String>,
    /// More for people; not compared.
    pub note: String,
}

impl Observation {
    /// The VMM did something, and saw this value if it looked at one.
    pub fn done(value: Option<String>) -> Self {
        Self {
            how: How::Direct,
            value: Some(value.unwrap_or_else(|| "done".into())),
            note: String::new(),
        }
    }

    /// With more to tell people.
    pub(crate) fn with_notes(mut self, more: Vec<String>) -> Self {
        for note in more {
            if !self.note.is_empty() {
                self.note += "; ";
            }
            self.note += &note;
        }
        self
    }

    /// It failed.
    pub fn error(what: String) -> Self {
        Self {
            how: How::Error,
            value: Some(what),
            note: String::new(),
        }
    }
}

/// One step, as it was seen and as it was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The number, from 1 on.
    pub n: usize,
    /// The word of the step, as machine files have it.
    pub op: &'static str,
    /// The guest-physical address; for a region, where it lies or goes to.
    pub gpa: u64,
    /// How many bytes.
    pub size: u64,
    /// What is there.
    pub region: String,
    /// What was seen.
    pub seen: Observation,
    /// What was expected.
    pub expected: Observation,
    /// Whether this kernel cannot do it at all, so that being refused is what
    /// is expected.
    pub unsupported: bool,
    /// The memslot operations that the step led to.
    pub slot_ops: Vec<String>,
}

impl StepReport {
    pub(crate) fn new(
        n: usize,
        op: &'static str,
        gpa: u64,
        size: u64,
        region: String,
        seen: Observation,
        expected: Observation,
    ) -> Self {
        Self {
            n,
            op,
            gpa,
            size,
            region,
            seen,
            expected,
            unsupported: false,
            slot_ops: Vec::new(),
        }
    }

    pub(crate) fn unsupported_if(self, unsupported: bool) -> Self {
        Self {
            unsupported,
            ..self
        }
    }

    /// Whether it went as expected. Where no value is expected, any will do.
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
        to.serialize_field("gpa", &format_args!("{:#x}", self.gpa))?;
        to.serialize_field("size", &self.size)?;
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

/// How many memslot operations the steps of a report may make: each takes some
/// hundred bytes until the report is printed.
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
    /// Why that one.
    pub why_backend: String,
    /// The kernel.
    pub kernel: String,
    /// Every step.
    pub steps: Vec<StepReport>,
    /// How many memslot operations they made.
    pub slot_ops: usize,
    /// Regions that this kernel cannot give to a guest, and why.
    pub unsupported: Vec<(String, String)>,
    /// The memslots before the first step.
    pub slots: Vec<SlotRow>,
    /// The memslots behind the last step.
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

/// For scripts. The steps are serialized one by one, because the whole is large.
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
            let step = StepReport::new(n, "move", 0, 0, String::new(), seen.clone(), seen);
            let slot_ops = vec![String::new(); ops];
            report.push(StepReport { slot_ops, ..step })
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
