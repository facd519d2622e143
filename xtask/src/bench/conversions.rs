// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of conversions.

use std::path::Path;
use std::process::Command;

use super::{NotCounted, count, line, objects};
use crate::shell::capture;

/// The number of requests whose instructions are counted.
const COUNTED: u64 = 50_000;

/// Conversions per second, and their memory and instructions.
pub fn table(program: &Path) -> Result<String, String> {
    eprintln!("xtask: timing conversions");
    let printed = capture(Command::new(program).arg("conversions"))?;
    let mut table = String::from(
        "Converting pages of a guest with 1 TiB, without the system calls, on one core\n\n\
         | requests | by | requests a second | pages a second | state | instructions a request |\n\
         | --- | --- | ---: | ---: | ---: | ---: |\n",
    );
    let mut kinds: Vec<String> = Vec::new();
    for row in objects(&printed) {
        let (Some(how), Some(what)) = (row["how"].as_str(), row["what"].as_str()) else {
            continue;
        };
        if kinds.last().is_none_or(|last| last != how) {
            kinds.push(how.into());
        }
        let million = |name: &str| format!("{:.2} M", row[name].as_f64().unwrap_or(0.0) / 1e6);
        let state = row["state_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
        let cells = [
            how.to_string(),
            what.to_string(),
            million("requests_per_second"),
            million("pages_per_second"),
            format!("{state:.1} MiB"),
            instructions(program, what, kinds.len() - 1)?,
        ];
        line(&mut table, &format!("| {} |", cells.join(" | ")));
    }
    match kinds.is_empty() {
        true => Err("the conversions said nothing".into()),
        false => Ok(table),
    }
}

/// Instructions of one request, or a dash if Valgrind is not installed.
fn instructions(program: &Path, what: &str, kind: usize) -> Result<String, String> {
    let on = match what {
        "kvm-slots alone" => "alone",
        "with memory-model" => "model",
        _ => return Ok("-".into()),
    };
    eprintln!("xtask: counting instructions of conversions, {what}");
    let (kind, times) = (kind.to_string(), COUNTED.to_string());
    let arguments = ["conversion", on, &kind, &times];
    match count(program, "convert_once", &arguments, COUNTED) {
        Ok(instructions) => Ok(instructions.to_string()),
        Err(NotCounted::NoValgrind) => Ok("-".into()),
        Err(NotCounted::Failed(why)) => Err(why),
    }
}
