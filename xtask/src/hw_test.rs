// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hardware tests in every environment that there is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::shell::build_program;

/// The environments there are. Kernels of a lab would be others.
const ENVIRONMENTS: [&str; 1] = ["host"];

/// How long one test may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// The tests of one environment.
#[derive(Debug, Serialize)]
struct Environment {
    name: String,
    kernel: String,
    caps: Value,
    tests: Vec<Outcome>,
}

/// How one test ended.
#[derive(Debug, Deserialize, Serialize)]
struct Outcome {
    name: String,
    status: String,
    reason: Option<String>,
    ms: u64,
}

/// Runs the tests in the named environments, or in all.
pub fn run(
    names: &[String],
    json: Option<&Path>,
    differential_ops: Option<u64>,
) -> Result<(), String> {
    if let Some(name) = names
        .iter()
        .find(|name| !ENVIRONMENTS.contains(&name.as_str()))
    {
        let known = ENVIRONMENTS.join(", ");
        return Err(format!(
            "there is no environment '{name}'; there is: {known}"
        ));
    }
    let program = build_program("tests", "hw-tests")?;
    let environments = [on_host(&program, differential_ops)?];
    print_table(&environments);
    if let Some(path) = json {
        let text = format!("{:#}\n", json!({"environments": environments}));
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let tests = environments
        .iter()
        .flat_map(|environment| &environment.tests);
    let failed = tests.filter(|test| test.status == "fail").count();
    match failed {
        0 => Ok(()),
        n => Err(format!("{n} hardware tests failed")),
    }
}

/// Runs the program here, following it test by test.
fn on_host(program: &Path, differential_ops: Option<u64>) -> Result<Environment, String> {
    eprintln!("xtask: environment host");
    let operations = differential_ops.map(|n| ["--differential-ops".into(), n.to_string()]);
    let mut child = Command::new(program)
        .args(operations.into_iter().flatten())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let lines = lines_of(&mut child);
    let mut environment = Environment {
        name: "host".into(),
        kernel: String::new(),
        caps: json!({}),
        tests: Vec::new(),
    };
    let mut progress = Progress::default();
    let ended = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => follow(&mut environment, &mut progress, line)?,
            Err(RecvTimeoutError::Disconnected) => break "the program ended in the middle of it",
            Err(RecvTimeoutError::Timeout) => break "it took too long: hung",
        }
    };
    // Whatever it does now, nobody waits for it.
    let _ = child.kill();
    let _ = child.wait();
    if let Some(name) = progress.running {
        environment.tests.push(Outcome {
            name,
            status: "fail".into(),
            reason: Some(ended.into()),
            ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX),
        });
    }
    let (ended, announced) = (environment.tests.len(), progress.announced);
    match announced > 0 && ended == announced {
        true => Ok(environment),
        false => Err(format!(
            "{ended} of {announced} hardware tests came to an end"
        )),
    }
}

/// How far the program is.
#[derive(Debug, Default)]
struct Progress {
    /// How many tests it said there would be.
    announced: usize,
    /// The test that has started and not ended.
    running: Option<String>,
}

/// Takes in one line of the program: the host, or a test's start or end.
fn follow(
    environment: &mut Environment,
    progress: &mut Progress,
    line: Value,
) -> Result<(), String> {
    let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_string);
    if let Some(kernel) = text("kernel") {
        environment.kernel = kernel;
        let announced = line.get("tests").and_then(Value::as_u64).unwrap_or(0);
        progress.announced = usize::try_from(announced).unwrap_or(0);
        environment.caps = line.get("caps").cloned().unwrap_or_else(|| json!({}));
    } else if let Some(name) = text("start") {
        progress.running = Some(name);
    } else if let Some(how_far) = text("progress") {
        eprintln!("        {how_far}");
    } else {
        let outcome: Outcome = serde_json::from_value(line).map_err(|e| e.to_string())?;
        eprintln!(
            "  {:<4}  {} ({} ms)",
            outcome.status, outcome.name, outcome.ms
        );
        environment.tests.push(outcome);
        progress.running = None;
    }
    Ok(())
}

/// The lines that the program prints, as they come.
fn lines_of(child: &mut Child) -> Receiver<Value> {
    let (to, from) = channel();
    if let Some(out) = child.stdout.take() {
        thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            for line in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
    }
    from
}

/// Tests by environments, and the reasons below.
fn print_table(environments: &[Environment]) {
    println!();
    for environment in environments {
        println!("{}: Linux {}", environment.name, environment.kernel);
        for (capability, value) in environment.caps.as_object().into_iter().flatten() {
            println!("  {capability:<20} {value}");
        }
    }
    let columns: Vec<&str> = environments.iter().map(|e| e.name.as_str()).collect();
    println!("\n{:<80} {}", "test", columns.join("  "));
    for (row, test) in environments[0].tests.iter().enumerate() {
        let cells = environments
            .iter()
            .map(|e| e.tests.get(row).map_or("-", |t| &t.status));
        println!("{:<80} {}", test.name, cells.collect::<Vec<_>>().join("  "));
    }
    for environment in environments {
        for test in &environment.tests {
            if let Some(reason) = &test.reason {
                println!(
                    "\n{} on {}: {}: {reason}",
                    test.status, environment.name, test.name
                );
            }
        }
    }
}
