// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A run for people, step by step, in lines that fit the terminal. Only words of
//! a machine file or of a path can be wider.

use std::fmt::Write;

use memory_map::text::Layout;

use crate::report::{Observation, Report, StepReport};

/// The heading of the steps.
pub fn steps_heading(layout: Layout) -> String {
    let heads = "   n    step             gpa   size how    value       where";
    format!("Steps\n{}", layout.row(heads, "", "", INDENT))
}

/// How wide a value can be that is shown in a column.
const COLUMN: usize = 18;

/// Where further lines of a step start.
const INDENT: usize = 10;

/// The machine, and what it runs on.
pub fn heading(report: &Report, layout: Layout) -> String {
    let backend = format!("{}: {}", report.backend, report.why_backend);
    let mut lines = vec![
        ("Machine", report.machine.clone()),
        ("Backend", backend),
        ("Kernel", report.kernel.clone()),
    ];
    for (region, why) in &report.unsupported {
        lines.push(("Without", format!("{region}: {why}")));
    }
    let mut text = String::new();
    for (label, words) in lines {
        text += &layout.fill(&format!("{label:9}"), &words, 9);
        text += "\n";
    }
    text + "\n"
}

impl StepReport {
    /// The step in lines of 80 columns.
    pub fn text(&self) -> String {
        self.text_in(Layout::default())
    }

    /// The step as a row, followed by the expectation if it was not met, and by
    /// the memslot operations.
    pub fn text_in(&self, layout: Layout) -> String {
        let verdict = if self.ok() { "ok" } else { "WRONG" };
        let gpa = self.gpa.map_or("-".into(), |gpa| format!("{gpa:#x}"));
        let columns = format!(
            "{:>4} {verdict:<2} {:<9} {gpa:>10} {:>#6x} {:<6} {:<10}  ",
            self.n,
            self.op,
            self.size,
            self.seen.how.word(),
            self.in_column(&self.seen),
        );
        let mut text = layout.row(&columns, &self.region, &self.note(), INDENT);
        if !self.ok() {
            let how = self.expected.how.word();
            let value = self.in_column(&self.expected);
            let _ = writeln!(text, "{:INDENT$}expected {how} {value}", "");
        }
        for op in &self.slot_ops {
            let op = layout.fill(&" ".repeat(INDENT), op, INDENT + 2);
            let _ = writeln!(text, "{op}");
        }
        text
    }

    /// The value if it is too long for a column, and the note.
    fn note(&self) -> String {
        let reason = self.seen.value.as_deref();
        let reason = reason.filter(|value| !fits(value));
        let parts = [reason.unwrap_or(""), &self.seen.note];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    }

    /// The value, if it is short enough for a column.
    fn in_column<'a>(&self, observation: &'a Observation) -> &'a str {
        match observation.value.as_deref() {
            Some(value) if fits(value) => value,
            _ if self.unsupported => "unsupported",
            _ => "-",
        }
    }
}

/// Whether a value is short enough for a column.
fn fits(value: &str) -> bool {
    value.chars().count() <= COLUMN
}

/// The number of steps, by outcome.
#[derive(Debug, Default)]
pub struct Tally {
    steps: usize,
    /// How many were not as expected.
    pub wrong: usize,
    unsupported: usize,
    /// How many were not run, because the script was cut short.
    pub not_run: usize,
}

impl Tally {
    /// Counts a step.
    pub fn count(&mut self, step: &StepReport) {
        self.steps += 1;
        self.wrong += usize::from(!step.ok());
        self.unsupported += usize::from(step.unsupported);
    }

    /// The numbers in a sentence.
    pub fn summary(&self) -> String {
        let steps = self.steps;
        let mut text = match self.wrong {
            0 => format!("All {steps} steps as expected"),
            wrong => format!("{wrong} of {steps} steps NOT as expected"),
        };
        match self.unsupported {
            0 => {}
            n => text += &format!("; {n} of them are unsupported by this kernel"),
        }
        match self.not_run {
            0 => {}
            n => text += &format!("; {n} were not run"),
        }
        text + "."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_as_many_characters_as_a_column_has_is_in_the_column() {
        let value = "ü".repeat(COLUMN);
        let seen = Observation::error(value.clone());
        let step = StepReport {
            n: 1,
            op: "move",
            gpa: None,
            size: 1,
            region: "ram".into(),
            seen: seen.clone(),
            expected: seen,
            unsupported: false,
            slot_ops: Vec::new(),
        };
        let text = step.text();
        assert!(text.ends_with(&format!("{value}  ram\n")), "{text}");
    }
}
