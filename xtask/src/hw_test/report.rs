// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results of the tests in every environment.

use serde::Serialize;

use super::compare::{Comparison, has_selftests, is_selftest};
use super::outcome::{Environment, Outcome, Status};
use crate::lab::Obstacle;

/// The results of a whole run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The environments that ran.
    pub environments: Vec<Environment>,
    /// The environments that are not available on this machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<Unavailable>,
    /// The kernel's own selftests without and with this project's patches, if
    /// both kernels ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// What a table of tests shows.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    /// The environments: its columns.
    pub environments: Vec<&'a Environment>,
    /// The names of the tests: its rows.
    pub names: Vec<&'a str>,
}

/// An environment that is not available.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// Its name.
    pub name: String,
    /// The reason.
    pub reason: String,
    /// Whether the reason is a fault of the project, such as a patch that does not
    /// apply, and not something that this machine lacks.
    pub is_fault: bool,
}

impl Unavailable {
    /// An environment that cannot be made.
    pub fn new(name: &str, obstacle: &Obstacle) -> Self {
        Self {
            name: name.into(),
            reason: obstacle.to_string(),
            is_fault: obstacle.is_fault(),
        }
    }

    /// The words for reports, before the reason.
    pub fn state(&self) -> &'static str {
        match self.is_fault {
            true => "cannot be made",
            false => "not available",
        }
    }
}

impl Report {
    /// The report on environments that ran and others that did not. One that had
    /// no test to run counts among the latter.
    pub fn new(environments: Vec<Environment>, mut unavailable: Vec<Unavailable>) -> Self {
        let (idle, environments): (Vec<_>, Vec<_>) =
            environments.into_iter().partition(|other| other.is_idle);
        unavailable.extend(idle.into_iter().map(|environment| Unavailable {
            name: environment.name,
            reason: environment.failure.unwrap_or_default(),
            is_fault: false,
        }));
        Self {
            comparison: Comparison::of(&environments),
            environments,
            unavailable,
        }
    }

    /// The names of all tests, each once, in the order of appearance.
    pub fn test_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for outcome in self.environments.iter().flat_map(|e| &e.tests) {
            if !names.contains(&outcome.name.as_str()) {
                names.push(outcome.name.as_str());
            }
        }
        names
    }

    /// The project's own tests, in the environments that do not have only selftests
    /// of the kernel. `None` if only selftests were run.
    pub fn own_tests(&self) -> Option<Table<'_>> {
        let is_own = |outcome: &Outcome| !is_selftest(&outcome.name);
        let environments = self.environments.iter();
        let environments = environments
            .filter(|e| e.tests.is_empty() || e.tests.iter().any(is_own))
            .collect();
        let all = self.test_names();
        let names: Vec<&str> = all.iter().copied().filter(|n| !is_selftest(n)).collect();
        (!names.is_empty() || all.is_empty()).then_some(Table {
            environments,
            names,
        })
    }

    /// The kernel's selftests, in the environments in which some ran, if there are
    /// any.
    pub fn selftests(&self) -> Option<Table<'_>> {
        let environments = self.environments.iter();
        let environments: Vec<_> = environments.filter(|e| has_selftests(e)).collect();
        let mut names = self.test_names();
        names.retain(|name| is_selftest(name));
        (!environments.is_empty()).then_some(Table {
            environments,
            names,
        })
    }

    /// The selftests that fail only with this project's patches, if there are any.
    pub fn regression(&self) -> Option<String> {
        self.comparison.as_ref()?.fault()
    }

    /// The reasons of a status, each with its environments and tests.
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

    /// Checks the whole run. The `required` environments must be available, and the
    /// others may only lack something.
    ///
    /// # Errors
    /// What failed.
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
        faults.extend(self.regression());
        for missing in &self.unavailable {
            if missing.is_fault || required.contains(&missing.name) {
                let (name, state, reason) = (&missing.name, missing.state(), &missing.reason);
                faults.push(format!("{name}: {state}: {reason}"));
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
    use crate::lab::environment::COMPARED;
    use serde_json::json;

    /// Two environments: one good, one that ended in the middle; and one that
    /// cannot be had.
    pub fn report() -> Report {
        let outcome = |name: &str, status, reason: Option<&str>| Outcome {
            name: name.into(),
            status,
            reason: reason.map(String::from),
            ms: 12,
            is_unsteady: false,
        };
        let environment = |name: &str, tests| Environment {
            name: name.into(),
            kernel: "7.3.4".into(),
            caps: json!({"GUEST_MEMFD": 1}),
            tests,
            failure: None,
            is_idle: false,
            notes: Vec::new(),
            console: None,
            console_end: String::new(),
            written: Vec::new(),
        };
        let good = vec![
            outcome("a_slot_moves", Status::Pass, None),
            outcome("a_page_is_private", Status::Skip, Some("no <attributes>")),
        ];
        let bad = vec![
            outcome("a_slot_moves", Status::Fail, Some("it took too long")),
            outcome("only_here", Status::Skip, Some("no <attributes>")),
        ];
        let environments = vec![
            environment("host", good),
            Environment {
                failure: Some("Kernel panic".into()),
                ..environment("lab-7.3", bad)
            },
        ];
        let unavailable = vec![Unavailable {
            name: "debian-6.1".into(),
            reason: "apt cannot be reached".into(),
            is_fault: false,
        }];
        Report::new(environments, unavailable)
    }

    /// The kernel's own selftests on the kernels without and with the patches. The
    /// last one fails only with them, in a way that is known.
    pub fn selftests() -> Report {
        let outcome = |name: &str, status| Outcome {
            name: format!("selftest::kvm::{name}"),
            status,
            reason: (status == Status::Known).then(|| "the emulator's clock".into()),
            ms: 1,
            is_unsteady: false,
        };
        let environment = |name: &str, last| Environment {
            name: name.into(),
            tests: vec![
                outcome("smm_test", Status::Pass),
                outcome("clock_test", Status::Known),
                outcome("debug_regs", last),
            ],
            failure: None,
            ..report().environments.remove(1)
        };
        let [without, with] = COMPARED;
        let environments = vec![
            environment(without, Status::Pass),
            environment(with, Status::Known),
        ];
        Report::new(environments, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_environment_is_a_fault_only_if_it_is_required() {
        let mut report = examples::report();
        report.environments.truncate(1);
        assert_eq!(report.verdict(&[]), Ok(()));
        let fault = report.verdict(&["debian-6.1".into()]).expect_err("missing");
        assert!(fault.contains("apt cannot be reached"), "{fault}");
        report.environments.clear();
        assert!(report.verdict(&[]).is_err(), "nothing ran");
    }

    #[test]
    fn an_environment_whose_patches_do_not_apply_is_a_fault_although_it_is_not_required() {
        let mut report = examples::report();
        report.environments.truncate(1);
        let obstacle = Obstacle::Fault("0001.patch does not apply".into());
        report.unavailable = vec![Unavailable::new("debian-6.1", &obstacle)];
        let fault = report.verdict(&[]).expect_err("a fault");
        assert_eq!(
            fault,
            "debian-6.1: cannot be made: 0001.patch does not apply"
        );
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
    fn a_reason_for_skipping_is_listed_once_with_its_tests() {
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
        assert!(json.get("comparison").is_none());
        let json = serde_json::to_value(examples::selftests()).expect("JSON");
        let row = &json["comparison"]["tests"][2];
        assert_eq!(row["name"], "selftest::kvm::debug_regs");
        assert_eq!(row["statuses"], serde_json::json!(["pass", "known"]));
        assert_eq!(row["regressed"], true);
    }

    #[test]
    fn an_environment_without_a_test_to_run_fails_only_if_it_was_named_or_is_the_last() {
        let mut environments = examples::report().environments;
        environments.truncate(1);
        let idle = Environment {
            name: "lab-7.3".into(),
            tests: Vec::new(),
            failure: Some("no test has that text in its name".into()),
            is_idle: true,
            ..environments[0].clone()
        };
        environments.push(idle.clone());
        let report = Report::new(environments, Vec::new());
        assert_eq!(report.verdict(&[]), Ok(()));
        let named = report.verdict(&["lab-7.3".into()]);
        assert!(named.is_err_and(|error| error.contains("no test has")));
        assert!(Report::new(vec![idle], Vec::new()).verdict(&[]).is_err());
    }

    #[test]
    fn a_selftest_that_fails_only_with_the_patches_is_a_fault_even_if_it_is_known() {
        let mut report = examples::selftests();
        assert!(report.environments.iter().all(Environment::is_good));
        let fault = report.verdict(&[]).expect_err("it regressed");
        assert!(fault.contains("selftest::kvm::debug_regs"), "{fault}");
        report.environments[1].tests[2].status = Status::Pass;
        let report = Report::new(report.environments, Vec::new());
        assert_eq!(report.verdict(&[]), Ok(()));
    }
}
