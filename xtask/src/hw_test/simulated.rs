// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the kernel's own selftests on the simulated KVM: the tests of
//! `tests/preload`, with the programs that the lab builds.

use std::path::PathBuf;
use std::process::Command;

use super::libtest::Translator;
use super::outcome::Environment;
use super::session::{self, TimeLimits};
use crate::lab::Preloaded;
use crate::shell;

/// How the names of these tests start in the report.
const PREFIX: &str = "selftest::sim::";

/// The variable that names the folder of the programs.
const FOLDER: &str = "KVM_SELFTESTS";

/// The test program, and its tests.
#[derive(Debug)]
pub struct Tests {
    program: PathBuf,
    only: String,
    selected: Vec<String>,
    others: Vec<String>,
}

impl Tests {
    /// Builds the test program, and selects the tests with these texts in their
    /// names.
    ///
    /// # Errors
    /// It does not build, or does not list its tests.
    pub fn build(only: &str, offline: bool) -> Result<Self, String> {
        let program = shell::build_test("kvm-preload", "selftests", offline)?;
        // Without programs, its tests are ignored and listed in another way.
        let list = shell::capture(Command::new(&program).arg("--list").env(FOLDER, "/"))?;
        let (selected, others) = names(&list, only);
        Ok(Self {
            program,
            only: only.into(),
            selected,
            others,
        })
    }

    /// Checks that there is a test to run.
    ///
    /// # Errors
    /// No name has the texts.
    pub fn any(&self) -> Result<(), String> {
        match self.selected.is_empty() {
            false => Ok(()),
            true => Err(format!("none of its tests has '{}' in its name", self.only)),
        }
    }

    /// Runs the tests.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn run(&self, name: &str, line: &str, programs: &Preloaded) -> Result<Environment, String> {
        let mut command = Command::new(&self.program);
        command.args(["--format", "json", "--test-threads", "1", "--exact"]);
        let others = self.others.iter().flat_map(|other| ["--skip", other]);
        command.args(others).env(FOLDER, &programs.folder);
        let kernel = format!("{line}, simulated");
        let translator = Translator::new(PREFIX, &kernel, &self.selected);
        let mut results = session::libtest(name, command, translator, TimeLimits::USUAL)?;
        results
            .notes
            .push(format!("its selftests are those of {}", programs.origin));
        Ok(results)
    }
}

/// The tests of a list, those with all the texts in their reported names apart
/// from the others.
fn names(list: &str, only: &str) -> (Vec<String>, Vec<String>) {
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(String::from).partition(|name| {
        let name = format!("{PREFIX}{name}");
        only.split(',').all(|text| name.contains(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "guest_memfd_test: test\nx86/exits: test\n\n";

    #[test]
    fn a_test_is_selected_by_texts_in_the_name_that_is_reported() {
        let selected = |only: &str| names(LIST, only).0;
        assert_eq!(selected(""), ["guest_memfd_test", "x86/exits"]);
        assert_eq!(selected("selftest::sim,x86"), ["x86/exits"]);
        assert!(selected("boot").is_empty());
        assert_eq!(names(LIST, "x86").1, ["guest_memfd_test"]);
    }

    #[test]
    fn the_absence_of_tests_with_the_text_is_a_reason() {
        let tests = |only: &str| {
            let (selected, others) = names(LIST, only);
            let (program, only) = (PathBuf::new(), only.to_string());
            Tests {
                program,
                only,
                selected,
                others,
            }
        };
        assert_eq!(tests("x86").any(), Ok(()));
        let error = tests("boot").any().expect_err("there is none");
        assert!(error.contains("'boot'"), "{error}");
    }
}
