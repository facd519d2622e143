// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What became of each mutant.

use std::fmt::Write as _;

use serde_json::Value;

use crate::reasons::Reasons;

/// The mutants of a crate.
#[derive(Debug, Default)]
pub struct Outcomes {
    caught: usize,
    /// The code does not compile.
    unviable: usize,
    /// Tests that ran too long. They count as caught: someone would notice.
    timeouts: usize,
    missed: Vec<String>,
}

impl Outcomes {
    /// Reads the tool's report.
    ///
    /// # Errors
    /// It is not such a report.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let report: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let all = report.get("outcomes").and_then(Value::as_array);
        let mut found = Self::default();
        for outcome in all.ok_or("no outcomes")? {
            // The tests without a mutant come first.
            let Some(name) = outcome.pointer("/scenario/Mutant/name") else {
                continue;
            };
            let name = name.as_str().ok_or("a mutant without a name")?;
            let summary = outcome.get("summary").and_then(Value::as_str);
            match summary.ok_or("a mutant without an outcome")? {
                "CaughtMutant" => found.caught += 1,
                "MissedMutant" => found.missed.push(name.into()),
                "Unviable" => found.unviable += 1,
                "Timeout" => found.timeouts += 1,
                other => return Err(format!("unknown outcome {other}")),
            }
        }
        found.missed.sort();
        Ok(found)
    }

    /// Whether no mutant was missed.
    pub fn is_all_caught(&self) -> bool {
        self.missed.is_empty()
    }

    /// The outcomes after `later`, which ran more tests for the missed mutants.
    pub fn then(self, later: Self) -> Self {
        Self {
            caught: self.caught + later.caught,
            unviable: self.unviable + later.unviable,
            timeouts: self.timeouts + later.timeouts,
            missed: later.missed,
        }
    }

    /// The missed mutants that are no equivalents.
    fn survivors<'a>(&'a self, equivalents: &'a Reasons) -> impl Iterator<Item = &'a str> {
        let missed = self.missed.iter().map(String::as_str);
        missed.filter(|name| equivalents.why(&without_position(name)).is_none())
    }

    /// The share of viable mutants that were caught, in percent. Reasons do not count.
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    pub fn ratio(&self, equivalents: &Reasons) -> f64 {
        let caught = self.caught + self.timeouts;
        let viable = caught + self.survivors(equivalents).count();
        match viable {
            0 => 100.0,
            viable => 100.0 * caught as f64 / viable as f64,
        }
    }

    /// A line of figures, and the survivors.
    pub fn text(&self, package: &str, equivalents: &Reasons) -> String {
        let survivors: Vec<&str> = self.survivors(equivalents).collect();
        let mut out = format!(
            "{package:<14} {:>4} caught {:>4} missed {:>3} equivalent {:>4} unviable {:>6.1} %\n",
            self.caught + self.timeouts,
            survivors.len(),
            self.missed.len() - survivors.len(),
            self.unviable,
            self.ratio(equivalents)
        );
        for name in survivors {
            let _ = writeln!(out, "  {name}");
        }
        for name in &self.missed {
            if let Some(why) = equivalents.why(&without_position(name)) {
                let _ = writeln!(out, "  equivalent: {}: {why}", without_position(name));
            }
        }
        out
    }
}

/// A mutant's name without line and column, which other changes move.
fn without_position(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(path), Some(_), Some(_), Some(what)) => format!("{path}:{what}"),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[(&str, &str)]) -> Outcomes {
        let mutants = outcomes.iter().map(|(name, summary)| {
            serde_json::json!({"scenario": {"Mutant": {"name": name}}, "summary": summary})
        });
        let baseline = serde_json::json!({"scenario": "Baseline", "summary": "Success"});
        let all: Vec<Value> = std::iter::once(baseline).chain(mutants).collect();
        let json = serde_json::json!({ "outcomes": all }).to_string();
        Outcomes::read(json.as_bytes()).expect("a report")
    }

    #[test]
    fn equivalents_and_mutants_that_do_not_compile_do_not_count() {
        let outcomes = report(&[
            ("a.rs:1:2: replace a", "CaughtMutant"),
            ("a.rs:2:2: replace b", "Timeout"),
            ("a.rs:3:2: replace c", "MissedMutant"),
            ("a.rs:4:2: replace d", "MissedMutant"),
            ("a.rs:5:2: replace e", "Unviable"),
        ]);
        let none = Reasons::default();
        assert!((outcomes.ratio(&none) - 50.0).abs() < 0.01);
        let one = Reasons::parse("a.rs: replace c\n    It cannot be seen.\n");
        let one = one.expect("one mutant");
        assert!((outcomes.ratio(&one) - 66.66).abs() < 0.01);
        let text = outcomes.text("a", &one);
        assert!(text.contains("2 caught    1 missed   1 equivalent    1 unviable"));
        assert!(text.contains("\n  a.rs:4:2: replace d\n"), "{text}");
        assert!(text.contains("equivalent: a.rs: replace c: It cannot be seen."));
    }

    #[test]
    fn of_mutants_tested_twice_the_later_outcome_counts() {
        let first = report(&[
            ("a.rs:1:2: replace a", "CaughtMutant"),
            ("a.rs:2:2: replace b", "MissedMutant"),
            ("a.rs:3:2: replace c", "MissedMutant"),
        ]);
        assert!(!first.is_all_caught());
        let later = report(&[
            ("a.rs:2:2: replace b", "CaughtMutant"),
            ("a.rs:3:2: replace c", "MissedMutant"),
        ]);
        let text = first.then(later).text("a", &Reasons::default());
        assert!(text.contains("2 caught    1 missed"), "{text}");
    }

    #[test]
    fn a_report_of_another_form_is_an_error() {
        assert!(Outcomes::read(b"{}").is_err());
        let unknown = r#"{"outcomes":[{"scenario":{"Mutant":{"name":"x"}},"summary":"Odd"}]}"#;
        let error = Outcomes::read(unknown.as_bytes()).unwrap_err();
        assert_eq!(error, "unknown outcome Odd");
    }

    #[test]
    fn a_mutant_is_the_same_wherever_its_line_is() {
        let name = "a.rs:17:4: replace < with <= in f";
        assert_eq!(without_position(name), "a.rs: replace < with <= in f");
    }
}
