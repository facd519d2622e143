// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What came of the tests in every environment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything: what ran, and what could not.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The environments that ran.
    pub environments: Vec<Environment>,
    /// Those that cannot be had on this machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<Unavailable>,
}

/// The tests of one environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// What it is called.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// What its KVM can do, by the names of the capabilities.
    pub caps: Value,
    /// The tests, in their order.
    pub tests: Vec<Outcome>,
    /// What went wrong with the environment itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What was remarkable and no failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Where its console was written to.
    #[serde(skip)]
    pub console: Option<PathBuf>,
}

/// How one test ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The test.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// Why, unless it passed.
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// How a test can end.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should.
    Pass,
    /// Not as it should, or not at all.
    Fail,
    /// It did not run: something that it needs is missing.
    Skip,
}

impl Status {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// An environment that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// What it is called.
    pub name: String,
    /// Why not.
    pub reason: String,
}

impl Environment {
    /// The outcome of the test of that name.
    pub fn outcome(&self, test: &str) -> Option<&Outcome> {
        self.tests.iter().find(|outcome| outcome.name == test)
    }

    /// How many tests ended so.
    pub fn count(&self, status: Status) -> usize {
        let tests = self.tests.iter();
        tests.filter(|outcome| outcome.status == status).count()
    }

    /// Whether everything went as it should.
    pub fn is_good(&self) -> bool {
        self.failure.is_none() && self.count(Status::Fail) == 0
    }
}

impl Report {
    /// The names of all tests, each once, in the order of their appearance.
    pub fn test_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for outcome in self.environments.iter().flat_map(|e| &e.tests) {
            if !names.contains(&outcome.name.as_str()) {
                names.push(outcome.name.as_str());
            }
        }
        names
    }

    /// Why tests ended so: each reason, with the environments and the tests
    /// that it holds for.
    pub fn reasons(&self, status: Status) -> Vec<(&str, Vec<(&str, &str)>)> {
        let mut reasons: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
        for environment in &self.environments {
            for outcome in &environment.tests {
                if outcome.status != status {
                    continue;
                }
                let reason = outcome.reason.as_deref().unwrap_or("no reason given");
                let pair = (environment.name.as_str(), outcome.name.as_str());
                match reasons.iter_mut().find(|(other, _)| *other == reason) {
                    Some((_, pairs)) => pairs.push(pair),
                    None => reasons.push((reason, vec![pair])),
                }
            }
        }
        reasons
    }

    /// Whether the whole run is good, given which environments had to be
    /// there.
    ///
    /// # Errors
    /// What is not.
    pub fn verdict(&self, required: &[String]) -> Result<(), String> {
        let mut faults = Vec::new();
        for environment in &self.environments {
            let failed = environment.count(Status::Fail);
            if failed > 0 {
                faults.push(format!(
                    "{failed} hardware tests failed on {}",
                    environment.name
                ));
            }
            if let Some(failure) = &environment.failure {
                faults.push(format!("{}: {failure}", environment.name));
            }
        }
        for missing in &self.unavailable {
            if required.contains(&missing.name) {
                faults.push(format!(
                    "{} is not available: {}",
                    missing.name, missing.reason
                ));
            }
        }
        if self.environments.is_empty() && faults.is_empty() {
            faults.push("there is no environment to run in".into());
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults.join("\n       ")),
        }
    }
}

#[cfg(test)]
pub mod examples {
    use super::*;
    use serde_json::json;

    /// Two environments: one good, one that ended in the middle; and one that
    /// cannot be had.
    pub fn report() -> Report {
        let outcome = |name: &str, status, reason: Option<&str>| Outcome {
            name: name.into(),
            status,
            reason: reason.map(String::from),
            ms: 12,
        };
        let environment = |name: &str, tests| Environment {
            name: name.into(),
            kernel: "7.3.4".into(),
            caps: json!({"GUEST_MEMFD": 1}),
            tests,
            failure: None,
            notes: Vec::new(),
            console: None,
        };
        let good = vec![
            outcome("a_slot_moves", Status::Pass, None),
            outcome("a_page_is_private", Status::Skip, Some("no <attributes>")),
        ];
        let bad = vec![
            outcome("a_slot_moves", Status::Fail, Some("it took too long")),
            outcome("only_here", Status::Skip, Some("no <attributes>")),
        ];
        Report {
            environments: vec![
                environment("host", good),
                Environment {
                    failure: Some("Kernel panic".into()),
                    ..environment("lab-7.3", bad)
                },
            ],
            unavailable: vec![Unavailable {
                name: "debian-6.1".into(),
                reason: "apt cannot be reached".into(),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_environment_is_a_fault_only_where_it_was_asked_for() {
        let mut report = examples::report();
        report.environments.truncate(1);
        assert_eq!(report.verdict(&[]), Ok(()));
        let fault = report.verdict(&["debian-6.1".into()]).expect_err("missing");
        assert!(fault.contains("apt cannot be reached"), "{fault}");
        report.environments.clear();
        assert!(report.verdict(&[]).is_err(), "nothing ran");
    }

    #[test]
    fn failed_tests_and_failed_environments_are_faults() {
        let fault = examples::report().verdict(&[]).expect_err("it failed");
        assert!(
            fault.contains("1 hardware tests failed on lab-7.3"),
            "{fault}"
        );
        assert!(fault.contains("Kernel panic"), "{fault}");
    }

    #[test]
    fn a_reason_for_skipping_is_told_once_with_all_it_holds_for() {
        let report = examples::report();
        let skips = report.reasons(Status::Skip);
        let pairs = vec![("host", "a_page_is_private"), ("lab-7.3", "only_here")];
        assert_eq!(skips, [("no <attributes>", pairs)]);
        assert_eq!(
            report.test_names(),
            ["a_slot_moves", "a_page_is_private", "only_here"]
        );
    }

    #[test]
    fn the_json_is_that_of_the_design() {
        let json = serde_json::to_value(examples::report()).expect("JSON");
        let first = &json["environments"][0];
        assert_eq!(first["tests"][1]["status"], "skip");
        assert_eq!(first["caps"]["GUEST_MEMFD"], 1);
        assert!(first.get("failure").is_none());
        assert_eq!(json["environments"][1]["failure"], "Kernel panic");
        assert_eq!(json["unavailable"][0]["name"], "debian-6.1");
    }
}
