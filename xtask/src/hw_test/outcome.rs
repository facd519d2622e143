// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results of the tests in one environment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lab::disk::{Disk, Written};

/// The tests of one environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// The capabilities of its KVM by name.
    pub caps: Value,
    /// The tests, in their order.
    pub tests: Vec<Outcome>,
    /// The failure of the environment itself, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Whether it had no test to run.
    #[serde(skip)]
    pub is_idle: bool,
    /// Remarks that are not failures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The file with its console.
    #[serde(skip)]
    pub console: Option<PathBuf>,
    /// The end of its console. Another run may have replaced the file.
    #[serde(skip)]
    pub console_end: String,
    /// What tests wrote to the disk, each with the name of the test.
    #[serde(skip)]
    pub written: Vec<(String, Written)>,
}

/// How one test ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The test.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// The reason, unless it passed.
    pub reason: Option<String>,
    /// The duration in milliseconds.
    pub ms: u64,
    /// Whether it was skipped, and passes, fails and skips itself now and then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unsteady: bool,
}

/// How a test can end.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It passed.
    Pass,
    /// It failed, or did not end.
    Fail,
    /// It was skipped, because something that it needs is missing.
    Skip,
    /// It failed in a way that is known, and has another cause than this
    /// project's code.
    Known,
}

impl Status {
    /// The name of the status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Known => "known",
        }
    }
}

impl Environment {
    /// The outcome of the test of that name.
    pub fn outcome(&self, test: &str) -> Option<&Outcome> {
        self.tests.iter().find(|outcome| outcome.name == test)
    }

    /// The number of tests with a status.
    pub fn count(&self, status: Status) -> usize {
        let tests = self.tests.iter();
        tests.filter(|outcome| outcome.status == status).count()
    }

    /// Compares the disk with what the tests wrote. A test whose bytes are not on
    /// it has failed.
    pub fn check_disk(&mut self, disk: &Disk) {
        for (name, written) in &self.written {
            let Err(error) = disk.check(written) else {
                continue;
            };
            let passed = |test: &&mut Outcome| test.name == *name && test.status == Status::Pass;
            if let Some(test) = self.tests.iter_mut().find(passed) {
                (test.status, test.reason) = (Status::Fail, Some(error));
            }
        }
    }

    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failure.is_none() && self.count(Status::Fail) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw_test::report::examples;

    #[test]
    fn a_test_whose_bytes_are_not_on_the_disk_has_failed() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::create(&folder.path().join("disk")).expect("an image");
        let zeros = |sha256: &str| Written {
            offset: 512,
            length: 3,
            sha256: sha256.into(),
        };
        let hash = "709e80c88487a2411e1ee4dfb9f22a861492d20c4765150c0c794abd70f8147c";
        let mut environment = examples::report().environments.remove(0);
        environment.written = vec![("a_slot_moves".into(), zeros(hash))];
        environment.check_disk(&disk);
        assert!(environment.is_good());
        environment.written.push(("a_slot_moves".into(), zeros("")));
        environment.check_disk(&disk);
        let outcome = environment.outcome("a_slot_moves").expect("it is listed");
        assert_eq!(outcome.status, Status::Fail);
        assert!(
            outcome
                .reason
                .as_ref()
                .is_some_and(|why| why.contains(hash))
        );
    }
}
