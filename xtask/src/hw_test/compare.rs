// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares the kernel's own selftests on the kernels without and with this
//! project's patches. One that passes without and does not pass with them is a fault
//! of the patches, whatever the list of known failures says.

use serde::Serialize;

use super::outcome::{Environment, Outcome, Status};
use crate::lab::environment::COMPARED;

/// How the names of these tests start.
const START: &str = "selftest::";

/// Whether a test is one of the kernel's own selftests.
pub fn is_selftest(name: &str) -> bool {
    name.starts_with(START)
}

/// Whether an environment has selftests, and not only stand-ins that say why it
/// has none.
pub fn has_selftests(environment: &Environment) -> bool {
    let ran = |outcome: &Outcome| is_selftest(&outcome.name) && outcome.status != Status::Skip;
    environment.tests.iter().any(ran)
}

/// The selftests on two kernels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The names of the environments: without and with the patches.
    pub environments: [&'static str; 2],
    /// The tests.
    pub tests: Vec<Compared>,
}

/// One test on both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// How it ended without and with the patches, where it ran.
    pub statuses: [Option<Status>; 2],
    /// Whether it passes without and does not pass with them.
    pub regressed: bool,
}

impl Comparison {
    /// The comparison, if both environments ran and have selftests.
    pub fn of(environments: &[Environment]) -> Option<Self> {
        let find = |name: &str| {
            let mut found = environments.iter().filter(|other| other.name == name);
            found.find(|environment| has_selftests(environment))
        };
        let [without, with] = COMPARED.map(find);
        let both = [without?, with?];
        let mut tests: Vec<Compared> = Vec::new();
        for outcome in both.iter().flat_map(|environment| &environment.tests) {
            let name = &outcome.name;
            if is_selftest(name) && !tests.iter().any(|test| test.name == *name) {
                tests.push(Compared::new(name, both.map(|of| of.outcome(name))));
            }
        }
        (!tests.is_empty()).then_some(Self {
            environments: COMPARED,
            tests,
        })
    }

    /// The names of the tests that regressed.
    pub fn regressed(&self) -> Vec<&str> {
        let tests = self.tests.iter().filter(|test| test.regressed);
        tests.map(|test| test.name.as_str()).collect()
    }

    /// The tests that regressed, as a fault of the run, if there are any.
    pub fn fault(&self) -> Option<String> {
        let [without, with] = self.environments;
        let regressed = self.regressed();
        (!regressed.is_empty()).then(|| {
            let names = regressed.join(", ");
            format!("passes on {without} and not on {with}: {names}")
        })
    }
}

impl Compared {
    fn new(name: &str, outcomes: [Option<&Outcome>; 2]) -> Self {
        let statuses = outcomes.map(|outcome| Some(outcome?.status));
        let [without, with] = statuses;
        // One that no longer exists does not pass either. One that is unsteady fails
        // now and then without the patches too.
        let is_unsteady = outcomes[1].is_some_and(|outcome| outcome.is_unsteady);
        let passes = with == Some(Status::Pass) || is_unsteady;
        Self {
            name: name.into(),
            statuses,
            regressed: without == Some(Status::Pass) && !passes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw_test::report::examples;

    #[test]
    fn only_one_that_passes_without_the_patches_can_regress() {
        use Status::{Fail, Known, Pass, Skip};
        let outcome = |status| Outcome {
            name: "it".into(),
            status,
            reason: None,
            ms: 1,
            is_unsteady: false,
        };
        let regressed = |without: Option<Status>, with: Option<Status>| {
            let outcomes = [without, with].map(|status| status.map(outcome));
            Compared::new("it", outcomes.each_ref().map(Option::as_ref)).regressed
        };
        for with in [Some(Fail), Some(Known), Some(Skip), None] {
            assert!(regressed(Some(Pass), with), "{with:?}");
            for without in [Some(Fail), Some(Known), Some(Skip), None] {
                assert!(!regressed(without, with), "{without:?} {with:?}");
            }
        }
        assert!(!regressed(Some(Pass), Some(Pass)));
        let unsteady = Outcome {
            is_unsteady: true,
            ..outcome(Skip)
        };
        let passed = outcome(Pass);
        assert!(!Compared::new("it", [Some(&passed), Some(&unsteady)]).regressed);
    }

    #[test]
    fn both_environments_are_compared_by_their_selftests() {
        let report = examples::selftests();
        let comparison = report.comparison.expect("both ran");
        assert_eq!(comparison.tests.len(), 3);
        assert_eq!(comparison.regressed(), ["selftest::kvm::debug_regs"]);
        let fault = comparison.fault().expect("one regressed");
        assert!(fault.starts_with("passes on lab-7.3 and not on lab-7.3-private-mmio:"));
        assert_eq!(Comparison::of(&report.environments[..1]), None);
        let mut environments = report.environments;
        environments[1].tests.truncate(1);
        environments[1].tests[0].status = Status::Skip;
        assert_eq!(Comparison::of(&environments), None, "only a stand-in");
        assert_eq!(examples::report().comparison, None);
    }
}
