// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the benchmarks and writes tables to the terminal and to a file.
//!
//! Callgrind counts instructions, because clocks are noisy. If it is not
//! installed, the reason is in the table's place. The measured code is built as
//! virtual machine monitors are: with link-time optimisation and one codegen
//! unit.

mod accesses;
mod bar_sizes;
mod conversions;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::shell::{build_benchmark, root};

/// The numbers of mapped BARs while one moves.
const BARS: [u64; 5] = [1, 240, 1024, 10_000, 100_000];
/// The numbers of BARs with a memslot each. KVM has 32 764.
const SLOTS: [u64; 4] = [1, 240, 1024, 10_000];
/// The number of moves.
const MOVES: u64 = 200;

/// Runs all benchmarks and writes the tables to `target/bench.md`.
pub fn run() -> Result<(), String> {
    let program = build_benchmark("tests", "bench")?;
    let bars = moves(
        &program,
        "moves",
        &BARS,
        "Moving one BAR among N mapped ones: a whole transaction with one listener",
    )?;
    let scattered = moves(
        &program,
        "scattered",
        &BARS,
        "Moving any of N BARs to any free place, after N of these moves",
    )?;
    let sparse = moves(
        &program,
        "sparse",
        &BARS,
        "Moving a container with one BAR over N mapped ones: the same, and it is as large as all of them",
    )?;
    let dense = moves(
        &program,
        "dense",
        &BARS,
        "Moving a container with 16 BARs among N mapped ones: the same, from places between theirs to behind them",
    )?;
    let slots = moves(
        &program,
        "slots",
        &SLOTS,
        "Moving one BAR of memory among N: the same, with memslots that follow on a VM that does nothing",
    )?;
    let tables = format!(
        "{bars}\n{scattered}\n{sparse}\n{dense}\n{slots}\n{}\n{}\n{}\n{}",
        lookups(&program)?,
        conversions::table(&program)?,
        accesses::table(),
        bar_sizes::table()
    );
    print!("{tables}");
    let file = root().join("target").join("bench.md");
    std::fs::write(&file, &tables).map_err(|e| format!("{}: {e}", file.display()))?;
    eprintln!("xtask: written to {}", file.display());
    Ok(())
}

/// Instructions for moving one BAR, or a container, among many.
fn moves(program: &Path, what: &str, bars: &[u64], title: &str) -> Result<String, String> {
    let mut table = format!("{title}\n\n| N | instructions a move |\n| ---: | ---: |\n");
    for bars in bars {
        eprintln!("xtask: counting instructions of {what} at N = {bars}");
        let arguments = [what, &bars.to_string(), &MOVES.to_string()];
        match count(program, "move_one_bar", &arguments, MOVES) {
            Ok(instructions) => line(&mut table, &format!("| {bars} | {instructions} |")),
            Err(Missing) => {
                return Ok("Instructions were not counted: valgrind is not installed.\n".into());
            }
        }
    }
    Ok(table)
}

/// Valgrind is not installed.
struct Missing;

/// Instructions of one call of `function`, which the program with these
/// arguments calls `times` times.
fn count(program: &Path, function: &str, arguments: &[&str], times: u64) -> Result<u64, Missing> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--toggle-collect=*{function}*"));
    let output = command.arg(program).args(arguments).output();
    let output = output.map_err(|_| Missing)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let collected = collected.and_then(|(_, number)| number.trim().parse::<u64>().ok());
    collected.map(|total| total / times).ok_or(Missing)
}

/// Nanoseconds for looking one address up, by data structure and number of
/// ranges.
fn lookups(program: &Path) -> Result<String, String> {
    eprintln!("xtask: timing lookups");
    let output = Command::new(program).arg("lookups").output();
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    let lines = output.stdout.split(|&byte| byte == b'\n');
    let mut counts: Vec<u64> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut times: Times = BTreeMap::new();
    let mut rates: Times = BTreeMap::new();
    for row in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let (Some(what), Some(ranges), Some(ns)) = (
            row["what"].as_str(),
            row["ranges"].as_u64(),
            row["ns"].as_f64(),
        ) else {
            continue;
        };
        if !counts.contains(&ranges) {
            counts.push(ranges);
        }
        if !names.iter().any(|name| name == what) {
            names.push(what.into());
        }
        times.insert((what.into(), ranges), ns);
        // The work of the other thread shows how much contention there was.
        if let Some(steps) = row["steps_per_second"].as_f64() {
            rates.insert((what.into(), ranges), steps);
        }
    }
    if times.is_empty() {
        return Err("the lookups said nothing".into());
    }
    let mut table = lookup_table(&counts, &names, &times);
    let thousands = rates.into_iter().map(|(of, rate)| (of, rate / 1000.0));
    let rates: Times = thousands.collect();
    names.retain(|name| rates.keys().any(|(of, _)| of == name));
    line(
        &mut table,
        "\nWhat the other thread did meanwhile, thousand steps a second\n",
    );
    rows(&mut table, &counts, &names, &rates);
    Ok(table)
}

/// Values by data structure and number of ranges.
type Times = BTreeMap<(String, u64), f64>;

fn lookup_table(counts: &[u64], names: &[String], times: &Times) -> String {
    let mut table = String::from(
        "Looking a random address up, nanoseconds: 65536 in sections of 4096, the fastest of 25 \
         times of each\n\n",
    );
    rows(&mut table, counts, names, times);
    table
}

fn rows(table: &mut String, counts: &[u64], names: &[String], times: &Times) {
    let head: Vec<String> = counts.iter().map(ToString::to_string).collect();
    line(table, &format!("| ranges | {} |", head.join(" | ")));
    line(table, &format!("| --- |{}", " ---: |".repeat(counts.len())));
    for name in names {
        let cells = counts.iter().map(|&count| {
            let ns = times.get(&(name.clone(), count));
            ns.map_or("-".to_string(), |ns| format!("{ns:.1}"))
        });
        line(
            table,
            &format!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | ")),
        );
    }
}

/// Writing to a string cannot fail.
fn line(table: &mut String, text: &str) {
    let _ = writeln!(table, "{text}");
}
