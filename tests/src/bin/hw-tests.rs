// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the hardware tests; prints one JSON object a line: first the host and
//! the names of all tests, then each test as it starts and as it ends, last
//! how many that were. So whoever reads knows which test it was that never
//! came back, and whether this was all. `--differential-ops N`
//! makes the differential tests longer or shorter; `--only TEXT` leaves out
//! tests without that text in their names; `--guest-sees-seconds N` sets how long
//! each test named `guest_sees` runs. `--access-costs` runs no test, and
//! says what accesses to a device cost.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use tests::needs::Host;
use tests::{differential, end_to_end, hardware};

fn main() -> ExitCode {
    let only = match arguments(std::env::args().skip(1)) {
        Ok(Command::Tests(only)) => only,
        Ok(Command::AccessCosts) => return access_costs(),
        Err(usage) => {
            eprintln!("hw-tests: {usage}");
            return ExitCode::FAILURE;
        }
    };
    let host = Host::probe();
    let mut tests = hardware::all();
    tests.retain(|test| test.name.contains(&only));
    let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    say(&json!({"kernel": host.kernel, "caps": host.capabilities(), "tests": names}));
    let count = tests.len();
    let mut failed = false;
    for test in tests {
        say(&json!({"start": test.name}));
        let start = Instant::now();
        let missing = test.needs.iter().find_map(|need| host.lacks(*need));
        let (status, reason) = match missing {
            Some(why) => ("skip", Some(why)),
            None => match catch_unwind(AssertUnwindSafe(|| test.run(&progress))) {
                Ok(Ok(())) => ("pass", None),
                Ok(Err(why)) => ("fail", Some(why)),
                Err(_) => ("fail", Some("it panicked".into())),
            },
        };
        failed |= status == "fail";
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        say(&json!({"name": test.name, "status": status, "reason": reason, "ms": ms}));
    }
    say(&json!({"end": count}));
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What is asked for.
enum Command {
    /// The tests that have this in their names.
    Tests(String),
    /// What accesses to devices cost.
    AccessCosts,
}

fn access_costs() -> ExitCode {
    match end_to_end::access_costs::costs() {
        Ok(costs) => {
            for cost in costs {
                say(&json!({"what": cost.what, "by": cost.by, "ns": cost.ns}));
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("hw-tests: {why}");
            ExitCode::FAILURE
        }
    }
}

/// How many operations the differential tests make is set; the rest is
/// returned.
fn arguments(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut only = String::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--differential-ops" => {
                let number = arguments.next().and_then(|text| text.parse().ok());
                let number = number.ok_or("--differential-ops takes a number")?;
                differential::set_operations(number);
            }
            #[cfg(target_arch = "x86_64")]
            "--guest-sees-seconds" => {
                let seconds = arguments.next().and_then(|text| text.parse().ok());
                let seconds = seconds.ok_or("--guest-sees-seconds takes a number")?;
                tests::guest_sees::set_seconds(seconds);
            }
            "--access-costs" => return Ok(Command::AccessCosts),
            "--only" => only = arguments.next().ok_or("--only takes a text")?,
            other => return Err(format!("there is no option '{other}'")),
        }
    }
    Ok(Command::Tests(only))
}

/// Whoever waits for a long test sees that it lives.
fn progress(text: String) {
    say(&json!({"progress": text}));
}

/// Who no longer listens need not be told.
fn say(line: &Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
