// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the tests of the crates in an environment of the lab: built here for its
//! architecture, and run on its kernel, with its pages.

mod programs;
mod results;

use std::io;
use std::path::{Path, PathBuf};

use crate::lab::environment::find;
use crate::lab::{cache, command, doctor};
use crate::shell::root;
use programs::TestProgram;
use results::Results;

/// The folders that tests read, besides the programs.
const DATA: [&str; 5] = ["crates", "docs", "examples", "fuzz", "tests"];

/// The emulator's options: the programs take some hundred MiB, and run their tests
/// on two processors.
const MACHINE: [&str; 4] = ["-m", "3072", "-smp", "2"];

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
    let script = folder.join(format!("{name}.sh"));
    cache::write(&script, programs::script(&tests).as_bytes())?;

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
        &mut results,
    );
    let log = folder.join(format!("{name}.log"));
    cache::write(&log, results.output().as_bytes())?;
    eprintln!("xtask: {name}: all output is in {}", log.display());
    let summary = results.summary();
    println!("{}", summary.text);
    ended?;
    summary.verdict
}

/// A file's path in the initramfs: the same as here.
fn place(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').into()
}

/// The files of a folder and of those in it, in the order of their names. Source
/// code stays here: no test reads it.
fn data(folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    for path in cache::files(folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && name != "src" {
            data(&path, files);
        } else if path.is_file() && !name.ends_with(".rs") {
            files.push((place(&path), path));
        }
    }
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
}
