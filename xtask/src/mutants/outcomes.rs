// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What became of each mutant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use crate::reasons::Reasons;

/// The mutants of a crate by name, and what became of each.
#[derive(Debug, Default)]
pub struct Outcomes(BTreeMap<String, Outcome>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Caught,
    /// The tests ran too long. It counts as caught: someone would notice.
    TimedOut,
    Missed,
    /// The code does not compile.
    Unviable,
}

impl Outcomes {
    /// Reads the tool's report.
    ///
    /// # Errors
    /// It is not such a report.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let report: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let all = report.get("outcomes").and_then(Value::as_array);
        let mut found = BTreeMap::new();
        for outcome in all.ok_or("no outcomes")? {
            // The tests without a mutant come first.
            let Some(name) = outcome.pointer("/scenario/Mutant/name") else {
                continue;
            };
            let name = name.as_str().ok_or("a mutant without a name")?;
            let summary = outcome.get("summary").and_then(Value::as_str);
            let outcome = match summary.ok_or("a mutant without an outcome")? {
                "CaughtMutant" => Outcome::Caught,
                "MissedMutant" => Outcome::Missed,
                "Unviable" => Outcome::Unviable,
                "Timeout" => Outcome::TimedOut,
                other => return Err(format!("unknown outcome {other}")),
            };
            found.insert(name.into(), outcome);
        }
        Ok(Self(found))
    }

    /// Whether there were no mutants.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the mutants that were missed.
    pub fn missed(&self) -> impl Iterator<Item = &str> {
        self.with(Outcome::Missed)
    }

    fn with(&self, outcome: Outcome) -> impl Iterator<Item = &str> {
        let all = self.0.iter().filter(move |(_, found)| **found == outcome);
        all.map(|(name, _)| name.as_str())
    }

    /// The outcomes after `later`, which ran more tests for some of the mutants.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        self.0.extend(later.0);
        self
    }

    /// The missed mutants that are no equivalents.
    fn survivors<'a>(&'a self, equivalents: &'a Reasons) -> impl Iterator<Item = &'a str> {
        self.missed()
            .filter(|name| equivalents.why(&without_position(name)).is_none())
    }

    fn caught(&self) -> usize {
        self.with(Outcome::Caught).count() + self.with(Outcome::TimedOut).count()
    }

    /// The share of viable mutants that were caught, in percent. Equivalents do not count.
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    pub fn ratio(&self, equivalents: &Reasons) -> f64 {
        match self.caught() + self.survivors(equivalents).count() {
            0 => 100.0,
            viable => 100.0 * self.caught() as f64 / viable as f64,
        }
    }

    /// A line of figures, the survivors, and the equivalents.
    pub fn text(&self, package: &str, equivalents: &Reasons) -> String {
        let survivors = self.survivors(equivalents).count();
        let mut out = format!(
            "{package:<12} {:>5.1} %: {} caught ({} timed out), {} missed, {} equivalent, {} unviable\n",
            self.ratio(equivalents),
            self.caught(),
            self.with(Outcome::TimedOut).count(),
            survivors,
            self.missed().count() - survivors,
            self.with(Outcome::Unviable).count(),
        );
        for name in self.survivors(equivalents) {
            let _ = writeln!(out, "  {name}");
        }
        for name in self.missed().map(without_position) {
            if let Some(why) = equivalents.why(&name) {
                let _ = writeln!(out, "  equivalent: {name}: {why}");
            }
        }
        out
    }

    /// The equivalents of this crate that are none: no mutant with the name was missed.
    pub fn stale<'a>(&self, package: &str, equivalents: &'a Reasons) -> Vec<&'a str> {
        let missed: BTreeSet<String> = self.missed().map(without_position).collect();
        let folder = format!("crates/{package}/");
        equivalents
            .iter()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(&folder) && !missed.contains(*name))
            .collect()
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
        let figures = ": 2 caught (1 timed out), 1 missed, 1 equivalent, 1 unviable";
        assert!(text.contains(figures), "{text}");
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
        let missed: Vec<&str> = first.missed().collect();
        assert_eq!(missed, ["a.rs:2:2: replace b", "a.rs:3:2: replace c"]);
        let later = report(&[
            ("a.rs:2:2: replace b", "Timeout"),
            ("a.rs:3:2: replace c", "MissedMutant"),
        ]);
        let text = first.then(later).text("a", &Reasons::default());
        assert!(text.contains("2 caught (1 timed out), 1 missed"), "{text}");
    }

    #[test]
    fn an_equivalent_that_tests_catch_or_that_is_gone_is_stale() {
        let outcomes = report(&[
            ("crates/a/x.rs:1:2: replace a", "CaughtMutant"),
            ("crates/a/x.rs:2:2: replace b", "MissedMutant"),
        ]);
        let list = "crates/a/x.rs: replace a\ncrates/a/x.rs: replace b\n\
                    crates/a/x.rs: replace c\ncrates/b/x.rs: replace d\n    Alike.\n";
        let list = Reasons::parse(list).expect("a list");
        let expected = ["crates/a/x.rs: replace a", "crates/a/x.rs: replace c"];
        assert_eq!(outcomes.stale("a", &list), expected);
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
