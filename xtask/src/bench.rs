// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the benchmarks and writes tables to the terminal and to a file.
//!
//! Callgrind counts instructions, because clocks are noisy. If it is not
//! installed, the reason is in the table's place. The measured code is built as
//! virtual machine monitors are: with link-time optimisation and one codegen
//! unit.

mod accesses;
mod areas;
mod bar_sizes;
mod boot_calls;
mod conversions;
mod disk_reads;
mod pre_faults;
mod starts;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::shell::{build_benchmark, capture, root};

/// The numbers of mapped BARs while one moves.
const BARS: [u64; 5] = [1, 240, 1024, 10_000, 100_000];
/// The numbers of BARs with a memslot each. KVM has 32 764.
const SLOTS: [u64; 4] = [1, 240, 1024, 10_000];
/// The number of moves.
const MOVES: u64 = 200;

/// A benchmark's name, and what makes its tables.
type Benchmark = (&'static str, fn() -> Result<String, String>);

/// All benchmarks, in the order of their tables.
const BENCHMARKS: [Benchmark; 10] = [
    ("moves", all_moves),
    ("lookups", lookups),
    ("areas", || areas::table(&program()?)),
    ("conversions", || conversions::table(&program()?)),
    ("pre-faults", || Ok(pre_faults::table())),
    ("accesses", || Ok(accesses::table())),
    ("bar-sizes", || Ok(bar_sizes::table())),
    ("boot-calls", || Ok(boot_calls::table())),
    ("disk-reads", || Ok(disk_reads::table())),
    ("starts", || Ok(starts::table())),
];

/// Runs the benchmarks with `only` in their names. Writes the tables to
/// `target/bench.md` if these are all.
///
/// # Errors
/// No benchmark has such a name, or one fails. The tables of the others are printed.
pub fn run(only: &str) -> Result<(), String> {
    let (mut tables, mut failed) = (Vec::new(), Vec::new());
    for (name, table) in chosen(only)? {
        match table() {
            Ok(table) => tables.push(table),
            Err(why) => failed.push(format!("{name}: {why}")),
        }
    }
    print!("{}", tables.join("\n"));
    if !failed.is_empty() {
        return Err(failed.join("\n       "));
    }
    if tables.len() == BENCHMARKS.len() {
        let file = root().join("target").join("bench.md");
        let written = std::fs::write(&file, tables.join("\n"));
        written.map_err(|e| format!("{}: {e}", file.display()))?;
        eprintln!("xtask: written to {}", file.display());
    }
    Ok(())
}

/// The benchmarks with this text in their names.
fn chosen(only: &str) -> Result<Vec<Benchmark>, String> {
    let all = BENCHMARKS.map(|(name, _)| name).join(", ");
    let chosen = BENCHMARKS
        .into_iter()
        .filter(|(name, _)| name.contains(only));
    let chosen: Vec<Benchmark> = chosen.collect();
    match chosen.is_empty() {
        true => Err(format!(
            "no benchmark has '{only}' in its name; there are {all}"
        )),
        false => Ok(chosen),
    }
}

fn program() -> Result<PathBuf, String> {
    build_benchmark("tests", "bench")
}

/// Instructions for moving a BAR or a container in different surroundings.
fn all_moves() -> Result<String, String> {
    let program = program()?;
    let tables = [
        (
            "moves",
            "Moving one BAR among N mapped ones: a whole transaction with one listener",
        ),
        (
            "scattered",
            "Moving any of N BARs to any free place, after N of these moves",
        ),
        (
            "sparse",
            "Moving a container with one BAR over N mapped ones: the same, and it is as large as all of them",
        ),
        (
            "dense",
            "Moving a container with 16 BARs among N mapped ones: the same, from places between theirs to behind them",
        ),
    ];
    let moved = tables.map(|(what, title)| moves(&program, what, &BARS, title));
    let slots = moves(
        &program,
        "slots",
        &SLOTS,
        "Moving one BAR of memory among N: the same, with memslots that follow on a VM that does nothing",
    );
    let tables: Vec<String> = moved.into_iter().chain([slots]).collect::<Result<_, _>>()?;
    Ok(tables.join("\n"))
}

/// Instructions for moving one BAR, or a container, among many.
fn moves(program: &Path, what: &str, bars: &[u64], title: &str) -> Result<String, String> {
    let mut table = format!("{title}\n\n| N | instructions a move |\n| ---: | ---: |\n");
    for bars in bars {
        eprintln!("xtask: counting instructions of {what} at N = {bars}");
        let arguments = [what, &bars.to_string(), &MOVES.to_string()];
        match count(program, "move_one_bar", &arguments, MOVES) {
            Ok(instructions) => line(&mut table, &format!("| {bars} | {instructions} |")),
            Err(NotCounted::NoValgrind) => return Ok(NO_VALGRIND.into()),
            Err(NotCounted::Failed(why)) => return Err(why),
        }
    }
    Ok(table)
}

/// What stands in the place of a table of instructions.
const NO_VALGRIND: &str = "Instructions were not counted: valgrind is not installed.\n";

/// Why instructions were not counted.
#[derive(Debug, PartialEq, Eq)]
enum NotCounted {
    /// Valgrind is not installed.
    NoValgrind,
    /// Valgrind or the program failed.
    Failed(String),
}

/// Instructions of one call of `function`, which the program with these
/// arguments calls `times` times.
fn count(
    program: &Path,
    function: &str,
    arguments: &[&str],
    times: u64,
) -> Result<u64, NotCounted> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--toggle-collect=*{function}*"));
    let output = command.arg(program).args(arguments).output();
    Ok(collected(output)? / times)
}

/// The number of instructions that Callgrind reports.
fn collected(output: io::Result<Output>) -> Result<u64, NotCounted> {
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NotCounted::NoValgrind,
        _ => NotCounted::Failed(format!("valgrind: {error}")),
    })?;
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    let failed = |what: String| {
        let last = last.unwrap_or("it said nothing");
        NotCounted::Failed(format!("valgrind: {what}: {last}"))
    };
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let numbers = text
        .lines()
        .filter_map(|line| line.split_once("Collected : "));
    let mut numbers = numbers.map(|(_, number)| number.trim().parse());
    match numbers.next() {
        Some(Ok(number)) => Ok(number),
        _ => Err(failed("it reports no number of instructions".into())),
    }
}

/// Nanoseconds for looking one address up, by data structure and number of
/// ranges.
fn lookups() -> Result<String, String> {
    let program = program()?;
    eprintln!("xtask: timing lookups");
    let printed = capture(Command::new(&program).arg("lookups"))?;
    let mut counts: Vec<u64> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut times: Times = BTreeMap::new();
    let mut rates: Times = BTreeMap::new();
    for row in objects(&printed) {
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

/// The JSON objects that a program prints, one a line.
fn objects(printed: &str) -> impl Iterator<Item = Value> {
    let lines = printed.lines();
    lines.filter_map(|line| serde_json::from_str(line).ok())
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

/// Text in lines of up to 80 characters.
fn wrapped(text: &str) -> String {
    let mut wrapped = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let fits = width + 1 + length <= 80;
        wrapped += match (width, fits) {
            (0, _) => "",
            (_, true) => " ",
            (_, false) => "\n",
        };
        width = if fits && width > 0 {
            width + 1 + length
        } else {
            length
        };
        wrapped += word;
    }
    wrapped
}

/// Writing to a string cannot fail.
fn line(table: &mut String, text: &str) {
    let _ = writeln!(table, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(script: &str) -> io::Result<Output> {
        Command::new("sh").args(["-c", script]).output()
    }

    #[test]
    fn a_program_that_fails_is_not_a_missing_valgrind() {
        let counts = "echo '==1== Collected : 1200' >&2";
        assert_eq!(collected(ran(counts)), Ok(1200));
        let failed = collected(ran(&format!(
            "{counts}; echo 'bench: it broke' >&2; exit 1"
        )));
        let due = "valgrind: exit status: 1: bench: it broke";
        assert_eq!(failed, Err(NotCounted::Failed(due.into())));
        assert!(matches!(collected(ran("true")), Err(NotCounted::Failed(_))));
        let missing = Command::new("no-such-program-anywhere").output();
        assert_eq!(collected(missing), Err(NotCounted::NoValgrind));
    }

    #[test]
    fn a_text_in_no_name_is_an_error_that_lists_the_names() {
        let names = |only: &str| {
            let chosen = chosen(only);
            chosen.map(|all| all.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(names("faults"), Ok(vec!["pre-faults"]));
        assert_eq!(names("").map(|all| all.len()), Ok(BENCHMARKS.len()));
        let error = names("look-ups").expect_err("a mistake");
        assert!(error.contains("'look-ups'") && error.contains("lookups, areas"));
    }
}
