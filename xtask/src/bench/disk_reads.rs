// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a read of an assigned disk costs Linux in `vmm boot`, in the lab.

use serde_json::Value;

use super::{line, wrapped};
use crate::lab::architecture::X86_64;
use crate::lab::command;
use crate::shell::build_static_program;

/// The environment with all ways of access.
const ENVIRONMENT: &str = "lab-7.3-private-mmio";

/// How the guest reaches the disk's registers, with a description.
const WAYS: [(&str, &str); 3] = [
    ("private", "by memslots without a host address"),
    ("mapped", "by memslots on the VMM's mapping"),
    ("trapped", "by exits, each a system call of the VMM"),
];

/// The table, or the reason if the lab is not available.
pub fn table() -> String {
    let title = "A direct read of 4 KiB of an assigned disk by Linux, microseconds under emulation, \
                 the best of 6 rounds";
    match measured() {
        Ok(rows) => format!("{}\n\n{rows}", wrapped(title)),
        Err(why) => format!("{title}: not measured: {why}\n"),
    }
}

fn measured() -> Result<String, String> {
    eprintln!("xtask: timing a guest's reads of its disk in {ENVIRONMENT}");
    let tests = build_static_program("tests", "hw-tests", &X86_64.target)?;
    let vmm = build_static_program("vmm", "vmm", &X86_64.target)?;
    let files = [
        ("bin/hw-tests", tests.as_path()),
        ("bin/vmm", vmm.as_path()),
    ];
    let words = ["hw-tests", "--read-costs", "private"];
    let printed = command::output(ENVIRONMENT, &files, &words, &[])?;
    let lines = printed.split(|&byte| byte == b'\n');
    let rows: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    table_of(&rows).ok_or_else(|| "it said nothing".into())
}

fn table_of(rows: &[Value]) -> Option<String> {
    let mut table = String::from("| registers | in order | in any order | exits at registers |\n");
    line(&mut table, "| --- | ---: | ---: | ---: |");
    for (by, words) in WAYS {
        let row = rows.iter().find(|row| row["by"] == by)?;
        let us = |what: &str| Some(format!("{:.0}", row[what].as_f64()? / 1000.0));
        let (sequential, random) = (us("sequential")?, us("random")?);
        let exits = row["exits"].as_u64()?;
        line(
            &mut table,
            &format!("| {words} | {sequential} | {random} | {exits} |"),
        );
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_way_is_a_line_with_both_orders() {
        let row = |by: &str| json!({"by": by, "sequential": 1_499_600, "random": 2e6, "exits": 7});
        let mut rows: Vec<Value> = WAYS.iter().map(|(by, _)| row(by)).collect();
        let table = table_of(&rows).expect("all are there");
        let last = table.lines().last().expect("a line");
        assert!(last.ends_with("the VMM | 1500 | 2000 | 7 |"), "{last}");
        // A missing value is not invented.
        rows.pop();
        assert_eq!(table_of(&rows), None);
    }
}
