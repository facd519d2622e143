// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The time from the start of `vmm boot` to its guest's first instruction.

use std::process::Command;

use serde_json::Value;

use super::{line, program, wrapped};
use crate::shell::{build_benchmark, capture};

/// The table, or the reason if this machine has no KVM.
pub fn table() -> String {
    let title = "From the start of a process to its guest's first instruction, ms, with 512 MiB \
                 of RAM and a kernel of N KiB: the median, and the least";
    match measured() {
        Ok(rows) => format!("{}\n\n{rows}", wrapped(title)),
        Err(why) => format!("{title}: not measured: {why}\n"),
    }
}

fn measured() -> Result<String, String> {
    let (bench, vmm) = (program()?, build_benchmark("vmm", "vmm")?);
    eprintln!("xtask: timing the start of guests");
    let printed = capture(Command::new(bench).arg("start").arg(vmm))?;
    let lines = printed.lines();
    let rows: Vec<Value> = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    table_of(&rows).ok_or_else(|| "it said nothing".into())
}

fn table_of(rows: &[Value]) -> Option<String> {
    let mut sizes: Vec<u64> = rows.iter().filter_map(|row| row["kib"].as_u64()).collect();
    sizes.dedup();
    let mut table = String::from("| N | `vmm boot` | KVM alone | ratio |\n");
    line(&mut table, "| ---: | ---: | ---: | ---: |");
    for kib in &sizes {
        let of = |by: &str, what: &str| {
            let mut rows = rows.iter();
            let row = rows.find(|row| row["kib"] == *kib && row["by"] == by)?;
            row[what].as_f64()
        };
        let both = |what| Some((of("vmm", what)?, of("bare", what)?));
        let ((ours, bare), (our_least, least)) = (both("median_ms")?, both("least_ms")?);
        let (ratio, least_ratio) = (ours / bare, our_least / least);
        line(
            &mut table,
            &format!(
                "| {kib} | {ours:.1}, {our_least:.1} | {bare:.1}, {least:.1} | {ratio:.2}, {least_ratio:.2} |"
            ),
        );
    }
    (!sizes.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_size_is_a_line_with_both_processes() {
        let row =
            |by: &str, ms: f64| json!({"kib": 64, "by": by, "median_ms": ms, "least_ms": 2.0});
        let rows = [row("vmm", 3.6), row("bare", 3.0)];
        let table = table_of(&rows).expect("both are there");
        let last = table.lines().last();
        assert_eq!(last, Some("| 64 | 3.6, 2.0 | 3.0, 2.0 | 1.20, 1.00 |"));
        // A missing value is not invented.
        assert_eq!(table_of(&rows[..1]), None);
    }
}
