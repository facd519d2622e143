// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which lines of the crates the tests reach.

mod table;

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::TEST_FEATURES;
use crate::shell::{Step, cargo, root, run_all, succeeds};
use table::Table;

const INSTALL: &str = "cargo install cargo-llvm-cov";
const COMPONENT: &str = "llvm-tools";

/// The configuration that rust-vmm's repositories have.
const CONFIGURATION: &str = "coverage_config_x86_64.json";

/// Runs the tests, prints a table and writes `target/coverage/html`.
///
/// # Errors
/// A tool is missing, a test fails, or a crate has less than `min` percent. Without
/// `min`, that is the score in rust-vmm's configuration file.
pub fn run(min: Option<f64>) -> Result<(), String> {
    let min = min.map_or_else(configured, Ok)?;
    if !succeeds(&cargo(), &["llvm-cov", "--version"]) {
        return Err(format!("no cargo-llvm-cov: {INSTALL}"));
    }
    // It is usually installed. If not, cargo-llvm-cov reports that.
    succeeds("rustup", &["component", "add", COMPONENT]);
    let folder = root().join("target").join("coverage");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let json = folder.join("summary.json");
    // Only the crates' own sources count, not tests or this program.
    let others = r"/(tests|xtask)/|/tests\.rs$";
    let report = |name: &str| {
        Step::cargo(name, &["llvm-cov", "report"]).with(&["--ignore-filename-regex", others])
    };
    run_all(&[
        // Remove counts of earlier runs, of programs that may not exist any
        // more.
        Step::cargo("a clean start", &["llvm-cov", "clean", "--workspace"]),
        Step::cargo("tests", &["llvm-cov", "--no-report", "--workspace"]).with(&TEST_FEATURES),
        report("summary")
            .with(&["--json", "--summary-only", "--output-path"])
            .with(&[&path(&json)]),
        report("page").with(&["--html", "--output-dir", &path(&folder)]),
    ])?;
    let summary = fs::read(&json).map_err(|e| format!("{}: {e}", json.display()))?;
    let table = Table::read(&summary, &root())?;
    print!("{table}");
    let page = folder.join("html").join("index.html");
    eprintln!("xtask: every line: {}", page.display());
    table.require(min)
}

/// The score that `coverage_config_x86_64.json` requires.
fn configured() -> Result<f64, String> {
    let file = root().join(CONFIGURATION);
    let about = |error: &dyn std::fmt::Display| format!("{CONFIGURATION}: {error}");
    let text = fs::read(&file).map_err(|error| about(&error))?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| about(&error))?;
    let score = json["coverage_score"].as_f64();
    score.ok_or_else(|| about(&"no `coverage_score`"))
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::configured;

    #[test]
    fn the_score_of_the_configuration_is_a_percentage() {
        let score = configured().unwrap();
        assert!((1.0..=100.0).contains(&score), "{score}");
    }
}
