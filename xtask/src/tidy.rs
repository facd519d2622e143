// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! House rules that no other tool checks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::root;

/// One concept a file; what is longer has two.
const MAX_LINES: usize = 400;

const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";

/// What must not be left in code.
const LEFT_OVERS: [&str; 4] = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore]"];

/// Checks every Rust file of the workspace.
pub fn check() -> Result<(), String> {
    let files = rust_files(&["crates", "fuzz/fuzz_targets", "tests", "xtask"]);
    let faults: Vec<String> = files.iter().flat_map(|file| faults(file)).collect();
    match faults.is_empty() {
        true => {
            eprintln!("xtask: tidy: ok ({} files)", files.len());
            Ok(())
        }
        false => Err(format!("tidy:\n  {}", faults.join("\n  "))),
    }
}

/// All Rust files below some of the workspace's folders, sorted.
pub fn rust_files(folders: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut files);
    }
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

fn faults(file: &Path) -> Vec<String> {
    let name = file.strip_prefix(root()).unwrap_or(file).display();
    let Ok(text) = fs::read_to_string(file) else {
        return vec![format!("{name}: cannot be read")];
    };
    let mut faults = Vec::new();
    if text.lines().next() != Some(LICENCE) {
        faults.push(format!("{name}:1: the first line is not `{LICENCE}`"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{name}: {lines} lines are more than {MAX_LINES}"));
    }
    // This file names them.
    if !file.ends_with("tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            let found = LEFT_OVERS.iter().find(|left| line.contains(*left));
            faults.extend(found.map(|left| format!("{name}:{}: `{left}`", number + 1)));
        }
    }
    faults
}
