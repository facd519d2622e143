// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds the fuzzers of `fuzz/` and runs them one after another.

mod status;

use std::env::consts::ARCH;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::cache;
use crate::shell::{Step, root, run_all, succeeds};
use status::Status;

const NIGHTLY: &str = "rustup toolchain install nightly --profile minimal";
const CARGO_FUZZ: &str = "cargo install cargo-fuzz";

/// The name of the corpora's folder among the caches.
const NAME: &str = "private-mmio-fuzz";

/// An input that takes longer than this many seconds is a finding.
const TIMEOUT: u64 = 25;
/// An input that takes more MiB of memory is a finding, too.
const MEMORY: u64 = 2048;

/// Longer inputs are slow and find no more faults.
const LONGEST: u64 = 4096;

/// The interval between progress messages.
const EVERY: Duration = Duration::from_secs(10);

/// Runs one fuzzer or all, each for `seconds`.
///
/// # Errors
/// A tool is missing, a fuzzer does not build, or it found something: the
/// message names the input.
pub fn run(wanted: Option<&str>, seconds: u64) -> Result<(), String> {
    let targets = chosen(targets()?, wanted)?;
    require_tools()?;
    let programs = build(wanted)?;
    let corpora = cache::caches()?.join(NAME);
    let (mut lines, mut found) = (Vec::new(), Vec::new());
    for target in &targets {
        let (status, finding) = watch(target, &programs, &corpora, seconds)?;
        lines.push(format!("{target:<14} {status}"));
        found.extend(finding);
    }
    println!("{}", lines.join("\n"));
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("found:\n  {}", found.join("\n  "))),
    }
}

/// The names of all fuzzers, sorted.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let stems = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_string()));
    let mut targets: Vec<String> = stems.collect();
    targets.sort();
    Ok(targets)
}

fn chosen(targets: Vec<String>, wanted: Option<&str>) -> Result<Vec<String>, String> {
    let all = targets.join(", ");
    let is_wanted = |target: &String| wanted.is_none_or(|wanted| wanted == target);
    let chosen: Vec<String> = targets.into_iter().filter(is_wanted).collect();
    match chosen.is_empty() {
        true => Err(format!("there is no such fuzzer; there are {all}")),
        false => Ok(chosen),
    }
}

fn require_tools() -> Result<(), String> {
    if !succeeds("cargo", &["+nightly", "--version"]) {
        return Err(format!("no nightly toolchain: {NIGHTLY}"));
    }
    if !succeeds("cargo", &["+nightly", "fuzz", "--version"]) {
        return Err(format!("no cargo-fuzz: {CARGO_FUZZ}"));
    }
    Ok(())
}

/// Builds one fuzzer or all. Returns their folder.
fn build(wanted: Option<&str>) -> Result<PathBuf, String> {
    let triple = format!("{ARCH}-unknown-linux-gnu");
    let folder = root().join("target").join("fuzz");
    let place = folder.to_string_lossy();
    let fixed = ["+nightly", "fuzz", "build", "--fuzz-dir", "fuzz"];
    let step = Step::rustup_cargo("fuzzers", &fixed)
        .with(&["--target", &triple, "--target-dir", &place])
        .with(wanted.as_slice());
    run_all(&[step])?;
    Ok(folder.join(triple).join("release"))
}

/// Runs a fuzzer. Returns its last status, and its finding if there is one.
fn watch(
    target: &str,
    programs: &Path,
    corpora: &Path,
    seconds: u64,
) -> Result<(Status, Option<String>), String> {
    let corpus = corpora.join("corpus").join(target);
    let findings = corpora.join("found").join(target);
    for folder in [&corpus, &findings] {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let mut command = Command::new(programs.join(target));
    // New inputs are stored in the first folder. The seeds are only read.
    command.arg(&corpus).arg(seeds(target));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={LONGEST}"));
    command.arg(format!("-timeout={TIMEOUT}"));
    command.arg(format!("-rss_limit_mb={MEMORY}"));
    command.arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    let log = corpora.join("found").join(format!("{target}.log"));
    eprintln!("xtask: {target}: {seconds} s");
    let (status, succeeded) = follow(target, command, &log)?;
    eprintln!("xtask: {target}: {status}");
    if succeeded {
        return Ok((status, None));
    }
    let input = status.input.clone().unwrap_or_default();
    let finding = format!("{target}: {input} (see {})", log.display());
    Ok((status, Some(finding)))
}

fn seeds(target: &str) -> PathBuf {
    root().join("tests/fuzz-targets/seeds").join(target)
}

/// Follows a fuzzer's output to its end, and writes it to a file.
fn follow(target: &str, mut command: Command, log: &Path) -> Result<(Status, bool), String> {
    let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    let mut file = File::create(log).map_err(|e| failed(log, e))?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| failed(Path::new(command.get_program()), e))?;
    let (mut status, start) = (Status::default(), Instant::now());
    let mut next = EVERY;
    let mut lines = child.stderr.take().map(BufReader::new);
    let mut line = Vec::new();
    // The output of another program is not always valid text.
    while let Some(lines) = &mut lines {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        file.write_all(&line).map_err(|e| failed(log, e))?;
        status.read(&String::from_utf8_lossy(&line));
        if start.elapsed() >= next {
            next = start.elapsed() + EVERY;
            let seconds = start.elapsed().as_secs();
            eprintln!("xtask: {target}: {seconds} s, {status}");
        }
    }
    let ended = child.wait().map_err(|e| failed(log, e))?;
    Ok((status, ended.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuzzer_is_chosen_by_its_name_and_all_are_named_if_there_is_none() {
        let targets = || vec!["a".to_string(), "b".to_string()];
        assert_eq!(chosen(targets(), None), Ok(targets()));
        assert_eq!(chosen(targets(), Some("b")), Ok(vec!["b".to_string()]));
        let error = chosen(targets(), Some("c")).unwrap_err();
        assert!(error.ends_with("there are a, b"), "{error}");
    }

    #[test]
    fn every_fuzzer_has_seeds() {
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let mut seeds = fs::read_dir(seeds(&target)).unwrap();
            assert!(seeds.next().is_some(), "{target}");
        }
    }
}
