// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starting the program, and reading what it prints.

pub mod bars;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod guest;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use vmm::machine::Machine;

pub fn vmm(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_vmm");
    Command::new(program).args(args).output().unwrap()
}

pub fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// What a run prints with `--json`, which must exit with `status`.
pub fn json(args: &[&str], status: i32) -> Value {
    let output = vmm(args);
    assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// That nothing could be run, and what is said about it.
pub fn failure(args: &[&str]) -> String {
    let output = vmm(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    assert_eq!(stdout(&output), "", "{args:?}");
    stderr(&output).to_string()
}

pub fn example(name: &str) -> String {
    format!("{}/../../examples/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

/// Writes a machine file into a folder and returns its path.
pub fn machine_file(folder: &Path, text: &str) -> String {
    let path = folder.join("machine.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

/// Asserts what is said about a machine file: the line and the problem.
#[track_caller]
pub fn mistake(text: &str, said: &str) {
    let error = Machine::from_text("m.toml", text).unwrap_err();
    assert_eq!(error.to_string(), format!("m.toml:{said}"));
}
