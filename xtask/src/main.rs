// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Developer commands: `cargo xtask --help`.

mod bench;
mod ci;
mod coverage;
mod fuzz;
mod hw_test;
mod lab;
mod miri;
mod shell;
mod standalone;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use shell::{Step, run_all};

/// Developer commands of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every test that needs no special hardware, and those that this
    /// machine's /dev/kvm allows; the others are listed with what they lack.
    Test,
    /// Run what a change must pass: house rules, format, lints, docs, tests,
    /// features, oldest toolchain, kvm-slots without memory-model, packages.
    Ci,
    /// Run the hardware tests and show a table of tests and environments.
    ///
    /// Environments are this machine (`host`) and the lab's kernels: `cargo
    /// xtask lab list`. What the lab lacks is downloaded and built first.
    HwTest {
        /// Run in this environment, and fail if it cannot be had. May be given
        /// more than once. Without it: in every environment that can be had.
        #[arg(long, value_name = "NAME")]
        env: Vec<String>,
        /// Write the results to this file as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How many random operations each differential test makes on the
        /// real and on the simulated KVM. Without it: 200 000.
        #[arg(long, value_name = "N")]
        differential_ops: Option<u64>,
        /// Run only tests with this text in their names. No blanks.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// Write the report to this file, not to target/hw-test/report.html.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Download nothing: use the kernels that are in the cache.
        #[arg(long)]
        offline: bool,
    },
    /// Kernels with a real KVM and VFIO, on any machine: under an emulator.
    ///
    /// Begin with `doctor`, which says what to install; then `build`, which
    /// downloads and builds the kernels, once; then `cargo xtask hw-test` runs
    /// the hardware tests in all of them, and `run ENV` in one.
    Lab {
        #[command(subcommand)]
        command: lab::LabCommand,
    },
    /// Measure what things cost; print tables and write them to
    /// target/bench.md.
    Bench,
    /// Run tests under Miri, those with threads in many schedules. Takes
    /// minutes, and a nightly toolchain.
    Miri,
    /// Run the fuzzers, one after the other, and say what they found. Needs a
    /// nightly toolchain and cargo-fuzz.
    ///
    /// What they learn is kept under ~/.cache/private-mmio-fuzz, for the next
    /// run to begin with.
    Fuzz {
        /// Only this one; without it: all.
        target: Option<String>,
        /// How long each of them runs.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
    },
    /// Run the tests and show which lines of the crates they reach: a table,
    /// and every line in target/coverage/html. Needs cargo-llvm-cov.
    ///
    /// What only runs in the lab, as all that opens real devices, is not
    /// counted.
    Coverage {
        /// Fail if less than this share of a crate's lines is reached.
        #[arg(long, value_name = "PERCENT")]
        min: Option<f64>,
    },
    /// Check the house rules: file length, licence lines, left-overs.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Test => run_all(&test_steps()),
        Command::Ci => ci::run(),
        Command::HwTest {
            env,
            json,
            differential_ops,
            only,
            html,
            offline,
        } => hw_test::run(&hw_test::Wish {
            names: env,
            json,
            html,
            offline,
            differential_ops,
            only,
        }),
        Command::Lab { command } => lab::run(&command),
        Command::Bench => bench::run(),
        Command::Miri => miri::run(),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Coverage { min } => coverage::run(min),
        Command::Tidy => tidy::check(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Features that only tests need.
const TEST_FEATURES: [&str; 2] = [
    "--features",
    "kvm-slots/sim,kvm-slots/vcpu-gate,memory-model/vm-memory,vfio-dma/kvm-slots,vfio-dma/sim",
];

/// The tests, with every feature that only tests need switched on.
fn test_steps() -> Vec<Step> {
    let tests = Step::cargo("tests", &["test", "--workspace", "--no-fail-fast"]);
    vec![tests.with(&TEST_FEATURES)]
}
