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

impl Choice {
    fn is_whole_crate(&self) -> bool {
        self.file.is_empty() && self.shard.is_none()
    }
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
    let mut any = false;
    for scope in scopes {
        let outcomes = test(scope, choice)?;
        if outcomes.is_empty() {
            continue;
        }
        any = true;
        print!("{}", outcomes.text(scope.package, &equivalents));
        if choice.is_whole_crate() {
            for name in outcomes.stale(scope.package, &equivalents) {
                println!("  listed as equivalent, and not missed: {name}");
            }
        }
        if outcomes.ratio(&equivalents) < REQUIRED {
            too_few.push(scope.package);
        }
    }
    match (any, too_few.is_empty()) {
        (false, _) => Err("no mutants are in these files, or in this part of them".into()),
        (true, true) => Ok(()),
        (true, false) => Err(format!(
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
    let fast = run_tool(scope, &Round::Fast(choice))?;
    let missed: Vec<&str> = fast.missed().collect();
    if missed.is_empty() {
        return Ok(fast);
    }
    let all = run_tool(scope, &Round::All(&missed))?;
    Ok(fast.then(all))
}

enum Round<'a> {
    /// The chosen mutants, with the fast tests.
    Fast(&'a Choice),
    /// The mutants of these names, with all tests.
    All(&'a [&'a str]),
}

/// Runs the tool, which shows progress.
fn run_tool(scope: &Scope, round: &Round<'_>) -> Result<Outcomes, String> {
    let folder = root().join("target").join("mutants").join(scope.package);
    cache::make_folder(&folder)?;
    // A run without mutants leaves none.
    let path = folder.join("mutants.out").join("outcomes.json");
    if path.exists() {
        fs::remove_file(&path).map_err(|e| cache::at(&path, &e))?;
    }
    let mut command = Command::new("sh");
    command.current_dir(root().join("crates").join(scope.package));
    // In a subshell first: where it fails, some shells exit with 2, one of the tool's own.
    let limit = format!("ulimit -v {MEMORY_LIMIT_KIB}");
    let limit = format!("({limit}) || exit 125; {limit}; exec \"$@\"");
    command.args(["-c", &limit, "sh"]).arg(cargo());
    command.args(arguments(scope, round));
    command.arg("--output").arg(&folder);
    if matches!(round, Round::Fast(_)) {
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
    if !path.exists() && status.success() {
        return Ok(Outcomes::default());
    }
    let json = fs::read(&path).map_err(|e| cache::at(&path, &e))?;
    Outcomes::read(&json).map_err(|e| format!("{}: {e}", path.display()))
}

/// The tool's arguments, without output and test names.
fn arguments(scope: &Scope, round: &Round<'_>) -> Vec<String> {
    let package = scope.package;
    let mut all: Vec<String> = ["mutants", "--all-features", "--package", package]
        .map(String::from)
        .to_vec();
    for file in scope.files {
        all.extend(["--file".into(), format!("crates/{package}/{file}")]);
    }
    all.extend(selection(round));
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

/// The arguments that choose among the mutants of the files. The tool has an option for
/// a second round, `--iterate`, but it forgets what the first one's shard was.
fn selection(round: &Round<'_>) -> Vec<String> {
    let mut all = Vec::new();
    match round {
        Round::Fast(choice) => {
            if !choice.file.is_empty() {
                let file = literally(&choice.file);
                all.extend(["--re".into(), format!("^[^:]*{file}[^:]*:")]);
            }
            if let Some(shard) = &choice.shard {
                all.extend(["--shard".into(), shard.clone()]);
                all.push("--sharding=round-robin".into());
            }
        }
        Round::All(names) => {
            for name in *names {
                all.extend(["--re".into(), format!("^{}$", literally(name))]);
            }
        }
    }
    all
}

/// A regular expression that matches `text` and nothing else.
fn literally(text: &str) -> String {
    const SPECIAL: &str = r"\.+*?()|[]{}^$#&-~";
    text.chars()
        .map(|c| match SPECIAL.contains(c) {
            true => format!("\\{c}"),
            false => c.to_string(),
        })
        .collect()
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
    fn every_equivalent_is_of_a_file_that_is_tested() {
        let list = root().join("xtask").join("equivalent-mutants.txt");
        for (name, _) in Reasons::read(&list).expect("a list").iter() {
            let tested = SCOPES.iter().any(|scope| {
                let folder = format!("crates/{}/", scope.package);
                let path = name
                    .split(':')
                    .next()
                    .and_then(|path| path.strip_prefix(&folder));
                path.is_some_and(|path| scope.files.iter().any(|file| is_in(path, file)))
            });
            assert!(tested, "{name}");
        }
    }

    fn is_in(path: &str, file: &str) -> bool {
        match file.strip_suffix("/**") {
            Some(folder) => path.starts_with(folder),
            None => path == file,
        }
    }

    #[test]
    fn a_part_of_a_path_is_not_taken_for_an_expression() {
        let choice = Choice {
            file: "a/plan.rs".into(),
            ..Choice::default()
        };
        let expected = ["--re", r"^[^:]*a/plan\.rs[^:]*:"];
        assert_eq!(selection(&Round::Fast(&choice)), expected);
    }

    #[test]
    fn the_second_round_tests_the_missed_mutants_whatever_was_chosen() {
        let missed = ["a.rs:1:2: replace f -> u64 with 0", "a.rs:3:2: delete !"];
        let expected = [
            "--re",
            r"^a\.rs:1:2: replace f \-> u64 with 0$",
            "--re",
            r"^a\.rs:3:2: delete !$",
        ];
        assert_eq!(selection(&Round::All(&missed)), expected);
    }
}
