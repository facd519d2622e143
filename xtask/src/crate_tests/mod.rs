// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the tests of the crates in an environment of the lab: built here for its
//! architecture, and run on its kernel, with its pages.

mod programs;
mod results;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::environment::find;
use crate::lab::{cache, command, doctor};
use crate::reasons::Reasons;
use crate::shell::root;
use programs::TestProgram;
use results::Results;

/// The folders that tests read, besides the programs.
const DATA: [&str; 5] = ["crates", "docs", "examples", "fuzz", "tests"];

/// The emulator's options: the programs take some hundred MiB, and run their tests
/// on two processors.
const MACHINE: [&str; 4] = ["-m", "3072", "-smp", "2"];

/// How long all programs may take together.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// Runs the tests with `only` in the names of their packages.
///
/// # Errors
/// The environment is not available, a program does not build, or a test fails.
pub fn run(name: &str, only: &str) -> Result<(), String> {
    let environment = find(name)?;
    if !environment.is_booted() {
        return Err(format!("{name} is where you are: `cargo xtask test`"));
    }
    let architecture = environment.architecture;
    doctor::can_boot(architecture)?;
    let built = programs::build(&architecture.target)?;
    let tests: Vec<TestProgram> = built
        .tests
        .into_iter()
        .filter(|test| test.package.contains(only))
        .collect();
    if tests.is_empty() {
        return Err(format!("no package has '{only}' in its name"));
    }
    let folder = root().join("target").join("crate-tests");
    cache::make_folder(&folder)?;
    let _lock = cache::lock(
        &folder.join(format!("{name}.lock")),
        &format!("runs the tests of the crates on {name}"),
    )?;
    let script = folder.join(format!("{name}.sh"));
    let skipped = skipped(name)?;
    cache::write(&script, programs::script(&tests, &skipped).as_bytes())?;

    let mut files: Vec<(String, PathBuf)> = vec![("run-tests".into(), script)];
    for program in tests.iter().map(|t| &t.program).chain(&built.others) {
        files.push((place(program), program.clone()));
    }
    for folder in DATA {
        data(&root().join(folder), &mut files);
    }
    let files: Vec<(&str, &Path)> = files
        .iter()
        .map(|(place, path)| (place.as_str(), path.as_path()))
        .collect();
    eprintln!("xtask: {name}: {} test programs", tests.len());
    let mut results = Results::new(io::stderr(), &tests);
    let ended = command::copy(
        name,
        &files,
        &["sh", "/run-tests"],
        &MACHINE.map(String::from),
        LIMIT,
        &mut results,
    );
    let log = folder.join(format!("{name}.log"));
    cache::write(&log, results.output().as_bytes())?;
    eprintln!("xtask: {name}: all output is in {}", log.display());
    let summary = results.summary();
    println!("{}", summary.text);
    print!("{}", skips(&tests, &skipped));
    ended?;
    summary.verdict
}

/// The tests that an environment does not run, with the reasons.
fn skipped(environment: &str) -> Result<Reasons, String> {
    match environment.ends_with("-16k") {
        true => Reasons::read(&root().join("xtask").join("tests-for-4k-pages.txt")),
        false => Ok(Reasons::default()),
    }
}

/// A line for each test that was skipped, and one for each reason.
fn skips(tests: &[TestProgram], skipped: &Reasons) -> String {
    let of_these = |name: &&str| tests.iter().any(|test| test.of(name).is_some());
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, why) in skipped.iter().filter(|(name, _)| of_these(name)) {
        by_reason.entry(why).or_default().push(name);
    }
    let mut out = String::new();
    for (why, names) in by_reason {
        let _ = writeln!(out, "\n{} skipped: {why}", names.len());
        for name in names {
            let _ = writeln!(out, "  {name}");
        }
    }
    out
}

/// A file's path in the initramfs: the same as here.
fn place(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').into()
}

/// The files of a folder and of those in it, in the order of their names. Source
/// code stays here, but for fuzzers.
fn data(folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    for path in cache::files(folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && name != "src" {
            data(&path, files);
        } else if path.is_file() && (!name.ends_with(".rs") || is_fuzzer(&path)) {
            files.push((place(&path), path));
        }
    }
}

/// Whether a file is a fuzzer, whose source a test reads.
fn is_fuzzer(path: &Path) -> bool {
    path.parent().is_some_and(|p| p.ends_with("fuzz_targets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_tests_read_and_no_source_code() {
        let mut files = Vec::new();
        data(&root().join("crates"), &mut files);
        let has = |end: &str| files.iter().any(|(place, _)| place.ends_with(end));
        assert!(has("crates/vmm/Cargo.toml"));
        assert!(files.iter().all(|(place, _)| !place.starts_with('/')));
        assert!(!has(".rs"));
    }

    #[test]
    fn skipped_tests_are_listed_with_their_reason() {
        let test = TestProgram {
            package: "vmm".into(),
            name: "it".into(),
            folder: "/".into(),
            program: "/it".into(),
        };
        let list = Reasons::parse("vmm it: a\nvmm it: b\nother it: c\n    Small pages.\n");
        let text = skips(&[test], &list.expect("a list"));
        assert_eq!(
            text,
            "\n2 skipped: Small pages.\n  vmm it: a\n  vmm it: b\n"
        );
    }
}
