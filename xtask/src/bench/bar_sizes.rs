// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What it costs a VMM to give the guest a BAR, by its size, in the lab.

use std::path::Path;

use serde_json::Value;

use super::line;
use crate::lab::architecture::X86_64;
use crate::lab::command;
use crate::shell::build_static_program;

/// The environment with all ways, and one whose kernel maps a BAR in pages of
/// 4 KiB only.
const ENVIRONMENTS: [&str; 2] = ["lab-7.3-private-mmio", "debian-6.1"];

/// The sizes in MiB, and their names.
const SIZES: [(u64, &str); 4] = [
    (16, "16 MiB"),
    (1 << 10, "1 GiB"),
    (16 << 10, "16 GiB"),
    (64 << 10, "64 GiB"),
];

/// How the guest gets a BAR, with a description.
const WAYS: [(&str, &str); 5] = [
    ("private", "without a host address"),
    ("aligned", "host-mapped, at a multiple of 1 GiB"),
    ("aligned-peers", "the same, and mapped for DMA of peers"),
    ("mapped", "host-mapped, where the kernel chooses"),
    ("mapped-peers", "the same, and mapped for DMA of peers"),
];

/// What is measured: its name, its title, and its unit.
const COSTS: [(&str, &str, f64); 6] = [
    (
        "given_us",
        "Time until it is in the guest's memory, ms",
        1000.0,
    ),
    (
        "first_load_us",
        "Time of the guest's first load, ms",
        1000.0,
    ),
    (
        "loads_us",
        "Time of a load of the guest from every 2 MiB, ms",
        1000.0,
    ),
    (
        "tables_given",
        "Page tables of the VMM before the first load, KiB",
        1024.0,
    ),
    (
        "tables_loaded",
        "Page tables of the VMM after all loads, KiB",
        1024.0,
    ),
    ("mappings", "Mappings of the device in the VMM", 1.0),
];

/// The tables, or the reason why there are none.
pub fn table() -> String {
    let program = build_static_program("tests", "hw-tests", &X86_64.target);
    let table = |environment| {
        let title = format!(
            "Giving the guest a BAR of a newly opened device, under emulation, in {environment}: \
             the least of up to 5 rounds"
        );
        let program = program.as_deref().map_err(Clone::clone);
        match program.and_then(|program| measured(environment, program)) {
            Ok(tables) => format!("{title}\n{tables}"),
            Err(why) => format!("{title}: not measured: {why}\n"),
        }
    };
    ENVIRONMENTS.map(table).join("\n")
}

fn measured(environment: &str, program: &Path) -> Result<String, String> {
    eprintln!("xtask: giving a guest BARs of different sizes in {environment}: some minutes");
    let words = ["hw-tests", "--bar-costs"];
    let files = [("bin/hw-tests", program)];
    let printed = command::output(environment, &files, &words, &devices())?;
    let lines = printed.split(|&byte| byte == b'\n');
    let rows: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    tables_of(&rows).ok_or_else(|| "it said nothing".into())
}

/// The emulator's arguments for an ivshmem device of each size. The memory is
/// anonymous and only read, so it takes none of the host's. That of a sparse
/// file would take as much page cache as the kernel reads ahead.
fn devices() -> Vec<String> {
    let device = |(mebibytes, _)| {
        [
            "-object".into(),
            format!("memory-backend-ram,id=bar-{mebibytes},size={mebibytes}M,reserve=off"),
            "-device".into(),
            format!("ivshmem-plain,memdev=bar-{mebibytes}"),
        ]
    };
    SIZES.into_iter().flat_map(device).collect()
}

/// A table for each cost. What was not measured has a dash, or no line if the
/// kernel does not have that way.
fn tables_of(rows: &[Value]) -> Option<String> {
    let mut tables = String::new();
    let is_there = |(by, _): &(&str, &str)| rows.iter().any(|row| row["by"] == *by);
    for (cost, title, unit) in COSTS {
        let names = SIZES.map(|(_, name)| name);
        line(&mut tables, &format!("\n{title}\n"));
        line(&mut tables, &format!("| how | {} |", names.join(" | ")));
        line(
            &mut tables,
            &format!("| --- |{}", " ---: |".repeat(names.len())),
        );
        for (by, words) in WAYS.into_iter().filter(is_there) {
            let cells = SIZES.map(|(mebibytes, _)| {
                let is_it = |row: &&Value| row["by"] == by && row["size"] == mebibytes << 20;
                let value = rows.iter().find(is_it).and_then(|row| row[cost].as_f64());
                value.map_or("-".into(), |value| short(value / unit))
            });
            line(&mut tables, &format!("| {words} | {} |", cells.join(" | ")));
        }
    }
    rows.iter()
        .any(|row| row["size"].is_u64())
        .then_some(tables)
}

/// A number with two digits after the point where that is needed.
fn short(value: f64) -> String {
    match value.fract() == 0.0 || value >= 100.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_cost_is_a_table_with_a_column_for_each_size() {
        let row = json!({
            "size": 1_u64 << 30, "by": "private", "given_us": 1500.0, "first_load_us": 20.0,
            "loads_us": 250_000.0, "tables_given": 0, "tables_loaded": 4096, "mappings": 1,
        });
        let tables = tables_of(&[row]).expect("it is there");
        let lines: Vec<&str> = tables.lines().collect();
        let private: Vec<&&str> = lines
            .iter()
            .filter(|line| line.starts_with("| without a host address |"))
            .collect();
        let cells = private.iter().map(|line| line.split(" | ").nth(2));
        let cells: Vec<&str> = cells.collect::<Option<_>>().expect("cells");
        assert_eq!(cells, ["1.50", "0.02", "250", "0", "4", "1"]);
        // A missing value is not invented.
        assert!(lines.contains(&"| without a host address | - | 1.50 | - | - |"));
        assert!(!tables.contains("host-mapped"));
        assert_eq!(tables_of(&[]), None);
    }
}
