// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running commands, and saying what and for how long.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

/// A command that must succeed.
#[derive(Clone, Debug)]
pub struct Step {
    name: String,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Step {
    /// `cargo` with these arguments.
    pub fn cargo(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_string(),
            program: cargo(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
        }
    }

    /// `cargo` by way of rustup, where `+toolchain` is understood.
    pub fn rustup_cargo(name: &str, arguments: &[&str]) -> Self {
        Self {
            program: "cargo".into(),
            ..Self::cargo(name, arguments)
        }
    }

    /// With more arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    fn run(&self) -> Result<(), String> {
        let start = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(root());
        // Set by the toolchain that runs us; another one must not see it.
        command.env_remove("RUSTUP_TOOLCHAIN");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let status = command
            .status()
            .map_err(|e| format!("{}: {e}", self.program))?;
        let seconds = start.elapsed().as_secs();
        match status.success() {
            true => {
                eprintln!("xtask: {}: ok ({seconds} s)", self.name);
                Ok(())
            }
            false => {
                let line = self.arguments.join(" ");
                Err(format!("{}: `cargo {line}` failed ({status})", self.name))
            }
        }
    }
}

/// Runs one step after the other, up to the first that fails.
pub fn run_all(steps: &[Step]) -> Result<(), String> {
    for (number, step) in steps.iter().enumerate() {
        eprintln!("xtask: [{}/{}] {}", number + 1, steps.len(), step.name);
        step.run()?;
    }
    Ok(())
}

/// The cargo that runs us.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// Whether a command can be run and succeeds; it prints nothing.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// Builds a program of the workspace for release; returns where it is.
pub fn build_program(package: &str, name: &str) -> Result<PathBuf, String> {
    eprintln!("xtask: building {name}");
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "-p", package, "--bin", name]);
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
