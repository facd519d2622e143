// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! House rules that no other tool checks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::root;

/// A file has one concept. A longer file probably has two, so it is listed.
const NOTED_LINES: usize = 400;

/// A longer file is an error.
const MAX_LINES: usize = 600;

const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";

/// What must not be left in code.
const LEFT_OVERS: [&str; 4] = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore]"];

/// Checks every Rust file of the workspace, and lists the long ones.
pub fn check() -> Result<(), String> {
    let files = rust_files(&["crates", "fuzz/fuzz_targets", "tests", "xtask"]);
    let mut faults = Vec::new();
    for file in &files {
        let name = file.strip_prefix(root()).unwrap_or(file).display();
        let Ok(text) = fs::read_to_string(file) else {
            faults.push(format!("{name}: cannot be read"));
            continue;
        };
        if let Some(note) = note(&text) {
            eprintln!("xtask: tidy: note: {name}: {note}");
        }
        // This file names the left-overs.
        let left_overs = match file.ends_with("tidy.rs") {
            true => &[][..],
            false => &LEFT_OVERS,
        };
        let found = self::faults(&text, left_overs);
        faults.extend(found.into_iter().map(|fault| format!("{name}:{fault}")));
    }
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

/// What to mention about a file that is not wrong.
fn note(text: &str) -> Option<String> {
    let lines = text.lines().count();
    (NOTED_LINES < lines && lines <= MAX_LINES)
        .then(|| format!("{lines} lines are more than {NOTED_LINES}"))
}

/// What is wrong in a file: each fault follows the file's name and a colon.
fn faults(text: &str, left_overs: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    if text.lines().next() != Some(LICENCE) {
        faults.push(format!("1: the first line is not `{LICENCE}`"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!(" {lines} lines are more than {MAX_LINES}"));
    }
    for (number, line) in text.lines().enumerate() {
        let found = left_overs.iter().find(|left| line.contains(**left));
        faults.extend(found.map(|left| format!("{}: `{left}`", number + 1)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: usize) -> String {
        format!("{LICENCE}\n{}", "//\n".repeat(lines - 1))
    }

    #[test]
    fn a_long_file_is_noted_and_a_longer_one_is_a_fault() {
        let faults = |lines| faults(&file(lines), &LEFT_OVERS);
        assert_eq!((note(&file(400)), faults(400)), (None, Vec::new()));
        let noted = Some("401 lines are more than 400".to_string());
        assert_eq!((note(&file(401)), faults(401)), (noted, Vec::new()));
        assert_eq!(faults(600), Vec::<String>::new());
        assert_eq!(note(&file(601)), None);
        assert_eq!(faults(601), [" 601 lines are more than 600"]);
    }

    #[test]
    fn a_missing_licence_and_left_overs_are_faults() {
        let text = "fn f() {\n    todo!()\n}\n";
        let licence = format!("1: the first line is not `{LICENCE}`");
        assert_eq!(faults(text, &LEFT_OVERS), [licence, "2: `todo!(`".into()]);
    }
}
