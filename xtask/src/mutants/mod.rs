// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mutation testing: changes the code in small ways, and runs the tests for each.

mod outcomes;

use std::fs;
use std::process::Command;

use crate::lab::cache;
use crate::reasons::Reasons;
use crate::shell::{cargo, root, succeeds};
use outcomes::Outcomes;

const INSTALL: &str = "cargo install cargo-mutants --locked";

/// The share of mutants that tests have to catch, in percent.
const REQUIRED: f64 = 95.0;

/// What a mutant's tests may allocate, in KiB: a mutant can be a loop without an end.
const MEMORY_LIMIT_KIB: u64 = 8 << 20;

/// A crate, and the source whose mutants count: the code that decides.
struct Scope {
    package: &'static str,
    files: &'static [&'static str],
    /// Parts of the names of tests that take more than a quarter of a second. They run
    /// only for mutants that the other tests miss.
    slow_tests: &'static [&'static str],
}

const SCOPES: [Scope; 4] = [
    Scope {
        package: "memory-model",
        files: &["src/tree/**", "src/transaction/**", "src/follower/**"],
        slow_tests: &[
            "oracle::",
            "readers::kept_views",
            "render::tests::a_tree_too_complex",
            "tree::aliases::",
        ],
    },
    Scope {
        package: "kvm-slots",
        files: &[
            "src/plan/**",
            "src/slots/apply.rs",
            "src/slots/listener.rs",
            "src/convert/**",
            "src/dirty/**",
        ],
        slow_tests: &[
            "apply::",
            "convert::faults",
            "convert::races",
            "dirty::oracle",
            "guest_sees",
            "listener::faults",
            "plan::shortest",
            "plan::table_rules",
        ],
    },
    Scope {
        package: "vfio-dma",
        files: &["src/plan.rs", "src/apply.rs", "src/listener/**"],
        slow_tests: &["apply::panics", "convert::", "plan::", "theorem::"],
    },
    Scope {
        package: "vfio-private",
        files: &[
            "src/classify.rs",
            "src/areas/**",
            "src/report.rs",
            "src/report/**",
        ],
        slow_tests: &["classify::oracle", "tdi::"],
    },
];

/// What to test.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Only this crate.
    pub package: Option<String>,
    /// Only files with this text in their paths.
    pub file: String,
    /// Only a part, such as `0/8`: every eighth mutant, from the first on.
    pub shard: Option<String>,
}

/// Runs the tests for each mutant of the chosen crates, and prints what they missed.
///
/// # Errors
/// The tool is missing, the tests fail without a mutant, or too few mutants are caught.
pub fn run(choice: &Choice) -> Result<(), String> {
    if !succeeds(&cargo(), &["mutants", "--version"]) {
        return Err(format!("no cargo-mutants: {INSTALL}"));
    }
    let scopes: Vec<&Scope> = SCOPES.iter().filter(|s| is_chosen(s, choice)).collect();
    if scopes.is_empty() {
        let all: Vec<&str> = SCOPES.iter().map(|scope| scope.package).collect();
        return Err(format!("no such crate; there are {}", all.join(", ")));
    }
    let equivalents = Reasons::read(&root().join("xtask").join("equivalent-mutants.txt"))?;
    let mut too_few = Vec::new();
    for scope in scopes {
        let outcomes = test(scope, choice)?;
        print!("{}", outcomes.text(scope.package, &equivalents));
        if outcomes.ratio(&equivalents) < REQUIRED {
            too_few.push(scope.package);
        }
    }
    match too_few.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "fewer than {REQUIRED} % caught: {}",
            too_few.join(", ")
        )),
    }
}

fn is_chosen(scope: &Scope, choice: &Choice) -> bool {
    let package = choice.package.as_deref();
    package.is_none_or(|package| package == scope.package)
}

/// Tests the mutants of a crate: all of them with the fast tests, and then those that
/// were missed with all tests.
fn test(scope: &Scope, choice: &Choice) -> Result<Outcomes, String> {
    let fast = run_tool(scope, choice, Tests::Fast)?;
    if fast.is_all_caught() {
        return Ok(fast);
    }
    let all = run_tool(scope, choice, Tests::All)?;
    Ok(fast.then(all))
}

#[derive(Clone, Copy, PartialEq)]
enum Tests {
    Fast,
    /// Of mutants that the fast ones missed.
    All,
}

/// Runs the tool, which shows progress.
fn run_tool(scope: &Scope, choice: &Choice, tests: Tests) -> Result<Outcomes, String> {
    let folder = root().join("target").join("mutants").join(scope.package);
    cache::make_folder(&folder)?;
    let mut command = Command::new("sh");
    command.current_dir(root().join("crates").join(scope.package));
    let limit = format!("ulimit -v {MEMORY_LIMIT_KIB} && exec \"$@\"");
    command.args(["-c", &limit, "sh"]).arg(cargo());
    command.args(arguments(scope, choice, tests));
    command.arg("--output").arg(&folder);
    if tests == Tests::Fast {
        command.args(["--", "--"]);
        for name in scope.slow_tests {
            command.args(["--skip", name]);
        }
    }
    let status = command
        .status()
        .map_err(|e| format!("cargo mutants: {e}"))?;
    // 0: all caught. 2: some were missed. 3: some took too long.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        return Err(format!("cargo mutants, {}: {status}", scope.package));
    }
    let path = folder.join("mutants.out").join("outcomes.json");
    let json = fs::read(&path).map_err(|e| cache::at(&path, &e))?;
    Outcomes::read(&json).map_err(|e| format!("{}: {e}", path.display()))
}

/// The tool's arguments, without output and test names.
fn arguments(scope: &Scope, choice: &Choice, tests: Tests) -> Vec<String> {
    let package = scope.package;
    let mut all: Vec<String> = ["mutants", "--all-features", "--package", package]
        .map(String::from)
        .to_vec();
    for file in scope.files {
        all.extend(["--file".into(), format!("crates/{package}/{file}")]);
    }
    if !choice.file.is_empty() {
        all.extend(["--re".into(), regex_of_path(&choice.file)]);
    }
    if let Some(shard) = &choice.shard {
        all.extend(["--shard".into(), shard.clone()]);
        all.push("--sharding=round-robin".into());
    }
    if tests == Tests::All {
        all.push("--iterate".into());
    }
    let jobs = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
    all.push(format!("--jobs={jobs}"));
    // What stays the same is optimized, for speed; what changes each time is not.
    all.extend(["--profile".into(), "optimized".into()]);
    for changed in [package, "support"] {
        let profile = format!("profile.optimized.package.{changed}");
        all.push(format!("--cargo-arg=--config={profile}.opt-level=0"));
    }
    // Unit and integration tests: examples in documentation are slow to build, and
    // repeat what these test.
    all.extend(["--cargo-arg=--lib".into(), "--cargo-arg=--tests".into()]);
    all
}

/// A regular expression for mutants whose names, which begin with their paths, have
/// `text` in the path.
fn regex_of_path(text: &str) -> String {
    let literal: String = text
        .chars()
        .map(|c| match c.is_alphanumeric() || c == '/' || c == '_' {
            true => c.to_string(),
            false => format!("\\{c}"),
        })
        .collect();
    format!("^[^:]*{literal}[^:]*:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_names_files_that_exist() {
        for scope in &SCOPES {
            for file in scope.files {
                let path = file.trim_end_matches("/**");
                let path = root().join("crates").join(scope.package).join(path);
                assert!(path.exists(), "{}", path.display());
            }
        }
    }

    #[test]
    fn a_part_of_a_path_is_not_taken_for_an_expression() {
        assert_eq!(regex_of_path("plan.rs"), r"^[^:]*plan\.rs[^:]*:");
    }
}
