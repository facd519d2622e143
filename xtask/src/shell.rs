// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs commands, and prints what runs and how long it takes.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::Value;

/// A command that must succeed.
#[derive(Clone, Debug)]
pub struct Step {
    name: String,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    requires_tests: bool,
}

impl Step {
    /// `cargo` with these arguments.
    pub fn cargo(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_string(),
            program: cargo(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            requires_tests: false,
        }
    }

    /// `cargo` through rustup, which understands `+toolchain`.
    pub fn rustup_cargo(name: &str, arguments: &[&str]) -> Self {
        Self {
            program: "cargo".into(),
            ..Self::cargo(name, arguments)
        }
    }

    /// Adds arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    /// Fails if no test runs, as when none has the name that the arguments select.
    pub fn requiring_tests(self) -> Self {
        Self {
            requires_tests: true,
            ..self
        }
    }

    fn run(&self) -> Result<(), String> {
        let start = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(root());
        // Set by the current toolchain. Another one must not see it.
        command.env_remove("RUSTUP_TOOLCHAIN");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let (status, tests) = match self.requires_tests {
            true => counting_tests(&mut command, &mut io::stdout()),
            false => command.status().map(|status| (status, 0)),
        }
        .map_err(|e| format!("{}: {e}", self.program))?;
        let seconds = start.elapsed().as_secs();
        let line = self.arguments.join(" ");
        match status.success() {
            true if self.requires_tests && tests == 0 => {
                Err(format!("{}: `cargo {line}` ran no test", self.name))
            }
            true => {
                eprintln!("xtask: {}: ok ({seconds} s)", self.name);
                Ok(())
            }
            false => Err(format!("{}: `cargo {line}` failed ({status})", self.name)),
        }
    }
}

/// Runs a command that runs tests, and copies what it prints. Returns how many tests
/// its programs ran.
fn counting_tests(command: &mut Command, to: &mut impl Write) -> io::Result<(ExitStatus, u64)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut tests = 0;
    if let Some(out) = child.stdout.take() {
        let mut out = BufReader::new(out);
        let mut line = Vec::new();
        while matches!(out.read_until(b'\n', &mut line), Ok(1..)) {
            tests += tests_run(&String::from_utf8_lossy(&line));
            // A reader that closes the pipe does not stop the tests.
            let _ = to.write_all(&line);
            line.clear();
        }
    }
    Ok((child.wait()?, tests))
}

/// The number of tests that a program of tests is about to run, if it says so in this
/// line: `running 3 tests`.
fn tests_run(line: &str) -> u64 {
    let Some((_, rest)) = line.split_once("running ") else {
        return 0;
    };
    let Some((number, _)) = rest.split_once(" test") else {
        return 0;
    };
    number.parse().unwrap_or(0)
}

/// Runs the steps in order, up to the first that fails.
pub fn run_all(steps: &[Step]) -> Result<(), String> {
    for (number, step) in steps.iter().enumerate() {
        eprintln!("xtask: [{}/{}] {}", number + 1, steps.len(), step.name);
        step.run()?;
    }
    Ok(())
}

/// The cargo that runs this program.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// Whether a command can be run and succeeds. Discards its output.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether the toolchain has a target's standard library, which rustup installs
/// if it can.
pub fn has_standard_library(triple: &str) -> bool {
    let is_there = || {
        let mut rustc = Command::new("rustc");
        rustc.args(["--print", "target-libdir", "--target", triple]);
        let folder = capture(rustc.current_dir(root()));
        folder.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
    };
    is_there() || (succeeds("rustup", &["target", "add", triple]) && is_there())
}

/// Builds a program of the workspace for release and returns its path.
pub fn build_program(package: &str, name: &str) -> Result<PathBuf, String> {
    build(package, name, "release", &mut Command::new(cargo()))
}

/// The same with the benchmark profile.
pub fn build_benchmark(package: &str, name: &str) -> Result<PathBuf, String> {
    build(package, name, "bench", &mut Command::new(cargo()))
}

/// A target of the compiler.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub triple: &'static str,
    /// The program that links for it on another architecture's machine.
    pub linker: &'static str,
    /// The package that contains the linker.
    pub linker_package: &'static str,
}

impl Target {
    /// Whether this machine's own compiler links for it.
    pub fn is_native(&self) -> bool {
        self.triple.split('-').next() == Some(std::env::consts::ARCH)
    }

    /// The variable that names the linker to Cargo.
    fn linker_variable(&self) -> String {
        let name = self.triple.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{name}_LINKER")
    }
}

/// The same for a target, linked statically, so that it runs without libraries.
pub fn build_static_program(package: &str, name: &str, target: &Target) -> Result<PathBuf, String> {
    let mut command = static_command(target, "-C strip=debuginfo");
    build(package, name, "release", &mut command)
}

/// Cargo for a target, with the compiler's flags for static programs and others.
pub fn static_command(target: &Target, flags: &str) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root());
    // With an explicit target, the flags do not apply to build scripts and
    // macros.
    command.env("CARGO_BUILD_TARGET", target.triple);
    if !target.is_native() {
        command.env(target.linker_variable(), target.linker);
    }
    command.env(
        "RUSTFLAGS",
        format!("-C target-feature=+crt-static {flags}"),
    );
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Builds a test program of a package and returns its path.
pub fn build_test(package: &str, name: &str, offline: bool) -> Result<PathBuf, String> {
    let mut command = Command::new(cargo());
    command.args(["test", "--no-run", "-p", package, "--test", name]);
    command.args(offline.then_some("--offline"));
    executable(&format!("the test {name} of {package}"), &mut command)
}

/// The same for release: tests that explore for a long time.
pub fn build_release_test(package: &str, name: &str) -> Result<PathBuf, String> {
    let mut command = Command::new(cargo());
    command.args([
        "test",
        "--release",
        "--no-run",
        "-p",
        package,
        "--test",
        name,
    ]);
    executable(&format!("the test {name} of {package}"), &mut command)
}

fn build(
    package: &str,
    name: &str,
    profile: &str,
    command: &mut Command,
) -> Result<PathBuf, String> {
    command.args(["build", "--profile", profile, "-p", package, "--bin", name]);
    executable(name, command)
}

/// Runs a build and returns the path of its program.
fn executable(name: &str, command: &mut Command) -> Result<PathBuf, String> {
    eprintln!("xtask: building {name}");
    command.args(["--message-format", "json-render-diagnostics"]);
    let command = command.current_dir(root()).stderr(Stdio::inherit());
    let output = command.output().map_err(|e| format!("cargo: {e}"))?;
    let lines = output.stdout.split(|&byte| byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut programs =
        messages.filter_map(|message| Some(message.get("executable")?.as_str()?.into()));
    let program = programs.next_back().filter(|_| output.status.success());
    program.ok_or_else(|| format!("{name} does not build"))
}

/// Runs a command and returns what it prints.
///
/// # Errors
/// It cannot be run or fails. The message has the last line of its errors.
pub fn capture(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = complaint.lines().filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    Err(format!("{program}: {}: {last}", output.status))
}

/// Runs a command whose output is progress, and sends it to standard error.
///
/// # Errors
/// It cannot be run or fails.
pub fn must(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let progress = std::io::stderr().as_fd().try_clone_to_owned();
    let progress = progress.map_err(|e| format!("{program}: {e}"))?;
    let status = command.stdin(Stdio::null()).stdout(progress).status();
    let status = status.map_err(|e| format!("{program}: {e}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(script: &str) -> Step {
        Step {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            ..Step::cargo("it", &[])
        }
    }

    #[test]
    fn a_step_whose_filter_selects_no_test_fails() {
        let none = "echo; echo running 0 tests; echo test result: ok. 0 passed";
        assert_eq!(step(none).run(), Ok(()));
        let error = step(none).requiring_tests().run().expect_err("none ran");
        assert!(error.ends_with("ran no test"), "{error}");
        let some = format!("{none}; echo running 1 test");
        assert_eq!(step(&some).requiring_tests().run(), Ok(()));
        let failing = format!("{some}; exit 1");
        let error = step(&failing).requiring_tests().run();
        assert!(error.is_err_and(|error| error.contains("failed")));
    }

    #[test]
    fn what_the_tests_print_is_copied() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'running 2 tests\nrunning 12 tests\nend'"]);
        let mut shown = Vec::new();
        let (status, tests) = counting_tests(&mut command, &mut shown).expect("a shell");
        assert!(status.success());
        assert_eq!(tests, 14);
        assert_eq!(shown, b"running 2 tests\nrunning 12 tests\nend");
        assert_eq!(tests_run("running the doctest of a file"), 0);
    }
}
