// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Developer commands: `cargo xtask --help`.

mod bench;
mod ci;
mod coverage;
mod crate_tests;
mod examples;
mod explore;
mod fuzz;
mod hw_test;
mod lab;
mod miri;
mod mutants;
mod publish;
mod reasons;
mod shell;
mod standalone;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use shell::{Step, run_all};

/// Developer commands of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all tests. Hardware tests that this machine cannot run are listed
    /// with the reason.
    ///
    /// With `--env`, the tests of all crates run in an environment of the lab,
    /// cross-built if it is of another architecture. Its hardware tests are run by
    /// `hw-test`, and examples in documentation only here.
    Test {
        /// Run in this environment.
        #[arg(long, value_name = "NAME")]
        env: Option<String>,
        /// Run only packages with TEXT in their names.
        #[arg(long, value_name = "TEXT", default_value = "", requires = "env")]
        only: String,
    },
    /// Run the checks that a change must pass: house rules, format, lints,
    /// docs, tests, features, oldest toolchain, kvm-slots without memory-model,
    /// licences, examples outside of the workspace, a dry run of publishing.
    ///
    /// Then run the hardware tests in five environments. Installs the lab's
    /// packages by apt, as root or by `sudo -n`, and builds kernels. What is
    /// unavailable is reported and is not a failure.
    Ci,
    /// Copy the libraries' examples into an empty package, build them, and run each
    /// of them.
    Examples,
    /// Run the hardware tests and print a table of tests and environments.
    ///
    /// The environments are this machine (`host`), the simulated KVM
    /// (`simulated`) and the lab's kernels: see `cargo xtask lab list`. Missing
    /// kernels are downloaded or built first.
    HwTest {
        /// Run in this environment, and fail if it is not available. Can be
        /// repeated. Default: the environments of this machine's architecture,
        /// except those that run only by name.
        #[arg(long, value_name = "NAME")]
        env: Vec<String>,
        /// Run only in environments of this architecture: x86_64, aarch64 or all.
        /// Default: this machine's, if no environment is named.
        #[arg(long, value_name = "ARCH", value_parser = architecture)]
        arch: Option<&'static str>,
        /// Write the results to this file as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Number of random operations of each differential test on the real
        /// and the simulated KVM. Default: 200 000, or 40 000 in the lab.
        #[arg(long, value_name = "N")]
        differential_ops: Option<u64>,
        /// Run only tests with TEXT in their names, or with each of several
        /// texts, separated by commas. No blanks.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// Which of the kernel's own selftests to run on the lab's own kernels.
        /// `quick` takes a minute. Kernels that are slow run no others. `none`
        /// leaves out the simulated KVM, which runs a few that take seconds.
        #[arg(long, value_name = "WHICH", default_value = "all")]
        selftests: hw_test::Selftests,
        /// Write the report to this file instead of target/hw-test/report.html.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Download nothing. Use the kernels in the cache.
        #[arg(long)]
        offline: bool,
    },
    /// Manage the lab: kernels with a real KVM and VFIO in an emulator.
    ///
    /// Start with `doctor`, which says what to install. `build` then downloads
    /// and builds the kernels. After that, `cargo xtask hw-test` runs the
    /// hardware tests in the default ones of this architecture, and `run ENV` in
    /// one.
    Lab {
        #[command(subcommand)]
        command: lab::cli::LabCommand,
    },
    /// Explore whether a device ever reaches a private page: all small worlds of pages,
    /// slots, devices, operations and failures, then random steps in a larger one.
    ///
    /// Prints states, transitions and violations. The exit status is 0 if there are no
    /// violations.
    Explore {
        /// The number of random steps.
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        steps: u64,
        /// Write the figures to this file as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Run the benchmarks. Print tables, and write them to target/bench.md.
    Bench {
        /// Run only benchmarks with this text in their names. Print their tables.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
    },
    /// Run tests under Miri, those with threads in many schedules. Takes
    /// minutes and needs a nightly toolchain.
    Miri,
    /// Run the fuzzers one after another and report findings. Needs a nightly
    /// toolchain and cargo-fuzz.
    ///
    /// The corpora are kept in ~/.cache/private-mmio-fuzz for the next run.
    Fuzz {
        /// Run only this fuzzer. Default: all.
        target: Option<String>,
        /// How many seconds each fuzzer runs.
        #[arg(
            long,
            value_name = "N",
            default_value_t = 60,
            // libFuzzer takes zero as no limit.
            value_parser = clap::value_parser!(u64).range(1..)
        )]
        seconds: u64,
    },
    /// Run the tests and measure which lines of the crates they reach: a table,
    /// and every line in target/coverage/html. Needs cargo-llvm-cov.
    ///
    /// Tests in the lab are not counted, so code that opens real devices
    /// appears unreached.
    Coverage {
        /// Fail if the tests reach less than this share of a crate's lines. Default:
        /// the score in coverage_config_x86_64.json.
        #[arg(long, value_name = "PERCENT")]
        min: Option<f64>,
    },
    /// Check what publishing needs. `docs/publishing.md` is the checklist.
    Publish {
        #[command(subcommand)]
        command: publish::PublishCommand,
    },
    /// Change the code in small ways and check that tests notice. Needs cargo-mutants,
    /// and two to three hours for all crates on two idle cores.
    ///
    /// Only the code that decides counts: plans, conversions, listeners, classification.
    /// Mutants that behave as the code does are listed, with the reason, in
    /// xtask/equivalent-mutants.txt. The exit status is 0 if at least 95 % of the
    /// others are caught.
    Mutants {
        /// Only this crate.
        #[arg(long = "crate", value_name = "NAME")]
        package: Option<String>,
        /// Only files with TEXT in their paths.
        #[arg(long, value_name = "TEXT", default_value = "")]
        file: String,
        /// Only a part of the mutants: every Nth one, from number K on. K is 0 to N - 1.
        #[arg(long, value_name = "K/N")]
        shard: Option<String>,
    },
    /// Check the house rules: file length, licence lines, left-overs like `todo!`.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Test { env: None, .. } => run_all(&test_steps()),
        Command::Test {
            env: Some(env),
            only,
        } => crate_tests::run(&env, &only),
        Command::Ci => ci::run(),
        Command::Examples => examples::run(),
        Command::Explore { steps, json } => explore::run(steps, json.as_deref()),
        Command::HwTest {
            env,
            arch,
            json,
            differential_ops,
            only,
            selftests,
            html,
            offline,
        } => hw_test::run(&hw_test::HwTestOptions {
            names: env,
            architecture: arch,
            json,
            html,
            offline,
            differential_ops,
            only,
            selftests,
        }),
        Command::Lab { command } => lab::cli::run(&command),
        Command::Bench { only } => bench::run(&only),
        Command::Miri => miri::run(),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Coverage { min } => coverage::run(min),
        Command::Publish { command } => publish::run(&command),
        Command::Mutants {
            package,
            file,
            shard,
        } => mutants::run(&mutants::Choice {
            package,
            file,
            shard,
        }),
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

/// An architecture by Rust's name or Debian's.
fn architecture(name: &str) -> Result<&'static str, String> {
    let known = lab::architecture::ARCHITECTURES;
    if name == hw_test::EVERY_ARCHITECTURE {
        return Ok(hw_test::EVERY_ARCHITECTURE);
    }
    let found = known.iter().find(|a| [a.rust, a.debian].contains(&name));
    found.map(|found| found.rust).ok_or_else(|| {
        let known = known.map(|other| other.rust).join(", ");
        format!("there are: {known}, all")
    })
}

/// The features that only tests need.
const TEST_FEATURES: [&str; 2] = [
    "--features",
    "kvm-slots/sim,kvm-slots/vcpu-gate,memory-model/vm-memory,vfio-dma/kvm-slots,vfio-dma/sim",
];

/// The tests, with every feature that only tests need.
fn test_steps() -> Vec<Step> {
    let tests = Step::cargo("tests", &["test", "--workspace", "--no-fail-fast"]);
    vec![tests.with(&TEST_FEATURES)]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The long help of a command and of those below it.
    fn help(command: &mut clap::Command) -> String {
        let mut text = command.render_long_help().to_string();
        for below in command.get_subcommands_mut() {
            text += &help(below);
        }
        text
    }

    #[test]
    fn help_has_lines_of_at_most_80_columns() {
        let mut command = Cli::command().term_width(80);
        command.build();
        let text = help(&mut command);
        let long = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None);
    }

    #[test]
    fn a_fuzzer_runs_for_a_second_at_least() {
        let parsed = |seconds: &str| Cli::try_parse_from(["xtask", "fuzz", "--seconds", seconds]);
        assert!(parsed("0").is_err());
        assert!(parsed("1").is_ok());
    }
}
