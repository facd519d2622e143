// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a run came to, for people and for scripts.

use serde_json::{Value, json};

use crate::machine::How;
use crate::map::SlotRow;

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

/// How wide a value can be that is shown in a column.
const COLUMN: usize = 18;

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

    /// The step as a line of text, with a line more for each memslot operation.
    pub fn text(&self) -> String {
        let verdict = if self.ok() { "ok" } else { "WRONG" };
        let mut text = format!(
            "{:>5}  {:<12} {:016x} {:>8}  {:<12} {:<18} {:<18} {verdict:<5}  {}",
            self.n,
            self.op,
            self.gpa,
            format!("{:#x}", self.size),
            self.seen.how.word(),
            self.in_column(&self.seen),
            self.expected_in_column(),
            self.region,
        );
        // Values have a column, reasons go behind everything.
        let reason = self
            .seen
            .value
            .as_deref()
            .filter(|value| value.len() > COLUMN);
        for more in [reason.unwrap_or(""), &self.seen.note] {
            if !more.is_empty() {
                text += &format!(" ({more})");
            }
        }
        for op in &self.slot_ops {
            text += &format!("\n{:>22}{op}", "");
        }
        text
    }

    /// The value, if it is short enough for a column.
    fn in_column<'a>(&self, observation: &'a Observation) -> &'a str {
        match observation.value.as_deref() {
            Some(value) if value.len() <= COLUMN => value,
            _ if self.unsupported => "unsupported",
            _ => "-",
        }
    }

    /// The expected value, and how it was to come about if it came otherwise.
    fn expected_in_column(&self) -> String {
        let value = self.in_column(&self.expected);
        match self.expected.how == self.seen.how {
            true => value.to_string(),
            false => format!("{} {value}", self.expected.how.word()),
        }
    }

    fn json(&self) -> Value {
        json!({
            "n": self.n,
            "op": self.op,
            "gpa": format!("{:#x}", self.gpa),
            "size": self.size,
            "how": self.seen.how.word(),
            "value": self.seen.value,
            "expected": self.expected.value,
            "ok": self.ok(),
            "expected_how": self.expected.how.word(),
            "unsupported": self.unsupported,
            "region": self.region,
            "note": self.seen.note,
            "slot_ops": self.slot_ops,
        })
    }
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
    /// Regions that this kernel cannot give to a guest, and why.
    pub unsupported: Vec<(String, String)>,
    /// The memslots before the first step.
    pub slots: Vec<SlotRow>,
    /// The memslots behind the last step.
    pub slots_after: Vec<SlotRow>,
}

impl Report {
    /// Whether every step went as expected.
    pub fn ok(&self) -> bool {
        self.steps.iter().all(StepReport::ok)
    }

    /// The run for scripts.
    pub fn json(&self) -> Value {
        let unsupported = |(region, why): &(String, String)| json!({"region": region, "why": why});
        json!({
            "backend": self.backend,
            "why_backend": self.why_backend,
            "kernel": self.kernel,
            "machine": self.machine,
            "unsupported": self.unsupported.iter().map(unsupported).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(StepReport::json).collect::<Vec<_>>(),
            "slots": self.slots,
            "slots_after": self.slots_after,
            "ok": self.ok(),
        })
    }
}
