// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the hardware tests; prints one JSON object a line: first the host and
//! the names of all tests, then each test as it starts and as it ends, last
//! how many that were. So whoever reads knows which test it was that never
//! came back, and whether this was all.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use tests::hw;
use tests::needs::Host;

fn main() -> ExitCode {
    let host = Host::probe();
    let tests = hw::all();
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
            None => match catch_unwind(AssertUnwindSafe(|| test.run())) {
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

/// Who no longer listens need not be told.
fn say(line: &Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
