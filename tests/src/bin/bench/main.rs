// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Benchmarks. `cargo xtask bench` runs them and prints tables.
//!
//! `bench lookups` and `bench conversions` print times as JSON. The others do
//! work for an instruction counter: `bench moves N TIMES` moves one BAR among
//! N, `bench scattered N TIMES` moves any of them to any place, `bench slots N
//! TIMES` moves one of memory, with memslots that follow, and `bench sparse N
//! TIMES` and `bench dense N TIMES` move a container. `bench conversion
//! alone|model KIND TIMES` converts pages. `bench areas WHAT TIMES` carves a BAR,
//! finds its areas and moves it. `bench start VMM` times how long `vmm
//! boot` takes to its guest's first instruction, and `bench start-bare IMAGE` is
//! the same without a VMM.

mod areas;
mod containers;
mod contention;
mod conversions;
mod lookups;
mod machine;
mod moves;
mod slots;
#[cfg(target_arch = "x86_64")]
mod start;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["conversions"] => conversions::run(),
        ["conversion", on @ ("alone" | "model"), kind, times] => {
            match (kind.parse(), times.parse()) {
                (Ok(kind), Ok(times)) => conversions::count(kind, on == "model", times),
                _ => return usage(),
            }
        }
        ["lookups"] => lookups::run(),
        ["moves", bars, times] => match (bars.parse(), times.parse()) {
            (Ok(bars), Ok(times)) => moves::run(bars, times),
            _ => return usage(),
        },
        ["scattered", bars, times] => match (bars.parse(), times.parse()) {
            (Ok(bars), Ok(times)) => moves::scattered(bars, times),
            _ => return usage(),
        },
        [kind @ ("sparse" | "dense"), bars, times] => match (bars.parse(), times.parse()) {
            (Ok(bars), Ok(times)) if kind == "sparse" => containers::sparse(bars, times),
            (Ok(bars), Ok(times)) => containers::dense(bars, times),
            _ => return usage(),
        },
        ["slots", bars, times] => match (bars.parse(), times.parse()) {
            (Ok(bars), Ok(times)) => slots::run(bars, times),
            _ => return usage(),
        },
        ["areas", what, times] => match times.parse() {
            Ok(times) => return ended(areas::run(what, times)),
            _ => return usage(),
        },
        #[cfg(target_arch = "x86_64")]
        ["start", vmm] => return ended(start::compare(vmm)),
        #[cfg(target_arch = "x86_64")]
        ["start-bare", image] => return ended(start::bare::run(image)),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: bench lookups | bench moves|scattered|slots|sparse|dense BARS TIMES \
         | bench conversions | bench conversion alone|model KIND TIMES \
         | bench areas classify|carve|find|move TIMES | bench start VMM | bench start-bare IMAGE"
    );
    ExitCode::from(2)
}
