// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cost of a guest's access to a device, in the lab.

use std::fmt::Write;

use serde_json::Value;

use crate::lab::architecture::X86_64;
use crate::lab::command;
use crate::shell::build_static_program;

/// The environment with all paths.
const ENVIRONMENT: &str = "lab-7.3-private-mmio";

/// The paths by which a guest reaches a device, with a description.
const WAYS: [(&str, &str); 3] = [
    ("private", "directly, by a memslot without a host address"),
    ("mapped", "directly, by a memslot on the VMM's mapping"),
    ("trapped", "by an exit, and a system call of the VMM"),
];

/// The table, or the reason if the lab is not available.
pub fn table() -> String {
    let title = "A guest's load of 4 bytes from a device, nanoseconds under emulation, \
                 the best of 5 rounds";
    match measured() {
        Ok(rows) => format!("{title}\n\n{rows}"),
        Err(why) => format!("{title}: not measured: {why}\n"),
    }
}

fn measured() -> Result<String, String> {
    eprintln!("xtask: timing a guest's accesses to devices in {ENVIRONMENT}");
    let program = build_static_program("tests", "hw-tests", &X86_64.target)?;
    let words = ["hw-tests", "--access-costs"];
    let files = [("bin/hw-tests", program.as_path())];
    let printed = command::output(ENVIRONMENT, &files, &words, &[])?;
    let lines = printed.split(|&byte| byte == b'\n');
    let rows: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    rows_of(&rows).ok_or_else(|| "it said nothing".into())
}

fn rows_of(rows: &[Value]) -> Option<String> {
    let mut devices: Vec<&str> = rows.iter().filter_map(|row| row["what"].as_str()).collect();
    devices.dedup();
    let mut table = format!("| how | {} |\n", devices.join(" | "));
    let _ = writeln!(table, "| --- |{}", " ---: |".repeat(devices.len()));
    for (by, words) in WAYS {
        let of = |what: &&str| {
            let mut rows = rows.iter();
            let row = rows.find(|row| row["what"] == **what && row["by"] == by)?;
            Some(format!("{:.0}", row["ns"].as_f64()?))
        };
        let cells: Option<Vec<String>> = devices.iter().map(of).collect();
        let _ = writeln!(table, "| {words} | {} |", cells?.join(" | "));
    }
    (!devices.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_way_is_a_line_and_each_device_a_column() {
        let row = |what: &str, by: &str, ns: f64| json!({"what": what, "by": by, "ns": ns});
        let mut rows = Vec::new();
        for what in ["edu", "memory"] {
            for (n, (by, _)) in WAYS.iter().enumerate() {
                rows.push(row(what, by, n as f64 + 1.4));
            }
        }
        let table = rows_of(&rows).expect("all is there");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], "| how | edu | memory |");
        assert!(lines[4].starts_with("| by an exit") && lines[4].ends_with("| 3 | 3 |"));
        // A missing value is not invented.
        rows.pop();
        assert_eq!(rows_of(&rows), None);
        assert_eq!(rows_of(&[]), None);
    }
}
