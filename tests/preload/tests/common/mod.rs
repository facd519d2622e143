// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs programs with the library, and reads its reports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// The library's exit status for a program of which something was ended.
pub const EXIT_ENDED: i32 = 65;

/// A program, and how to run it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The simulated kernel, as the library names it.
    pub kernel: &'static str,
    /// Its functions that return nothing and can be ended.
    pub subtests: Vec<&'static str>,
}

/// What happened in a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The exit status; `None` if a signal ended the process.
    pub status: Option<i32>,
    /// The standard output and error output.
    pub output: String,
    /// Calls by what was answered or ended: subtest, call, count.
    pub answered: Vec<(String, String, u64)>,
    /// The same for calls that are not simulated.
    pub ended: Vec<(String, String, u64)>,
}

impl Run {
    /// The number of answered calls of a subtest, by call.
    pub fn of(&self, subtest: &str) -> BTreeMap<&str, u64> {
        let calls = self.answered.iter().filter(|(of, ..)| of == subtest);
        calls
            .map(|(_, call, count)| (call.as_str(), *count))
            .collect()
    }

    /// The calls that ended subtests.
    pub fn ends(&self) -> Vec<(&str, &str)> {
        let ends = self.ended.iter();
        ends.map(|(subtest, call, _)| (subtest.as_str(), call.as_str()))
            .collect()
    }
}

/// Runs a program. No report is an error: the library was not loaded, and the answers
/// were those of the real kernel.
pub fn run(program: &Program) -> Result<Run, String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let report = env::temp_dir().join(format!("kvm-preload-{}-{number}", process::id()));
    let output = Command::new(&program.path)
        .args(&program.arguments)
        .env("LD_PRELOAD", library()?)
        .env("KVM_PRELOAD_KERNEL", program.kernel)
        .env("KVM_PRELOAD_SUBTESTS", program.subtests.join(","))
        .env("KVM_PRELOAD_REPORT", &report)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| at(&program.path, &e))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    let lines = fs::read_to_string(&report)
        .map_err(|e| format!("no report of the library: {e}: {}\n{said}", output.status))?;
    fs::remove_file(&report).map_err(|e| at(&report, &e))?;
    let calls = |what| {
        lines
            .lines()
            .filter_map(move |line| call(line, what))
            .collect()
    };
    Ok(Run {
        status: output.status.code(),
        output: said,
        answered: calls("answered"),
        ended: calls("ended"),
    })
}

fn call(line: &str, what: &str) -> Option<(String, String, u64)> {
    let mut fields = line.split('\t');
    if fields.next()? != what {
        return None;
    }
    let (subtest, call) = (fields.next()?.into(), fields.next()?.into());
    Some((subtest, call, fields.next()?.parse().ok()?))
}

/// Cargo builds the library beside the tests.
fn library() -> Result<PathBuf, String> {
    let test = env::current_exe().map_err(|e| e.to_string())?;
    let library = test.with_file_name("libkvm_preload.so");
    match library.exists() {
        true => Ok(library),
        false => Err(format!("no library {}", library.display())),
    }
}

/// An error with the file it is about.
pub fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Requires that two values are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    match is == should {
        true => Ok(()),
        false => Err(format!("{what}: {is:?} and not {should:?}")),
    }
}
