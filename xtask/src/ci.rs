// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks that a change must pass.

use std::time::Duration;

use crate::publish::packages::Packages;
use crate::publish::{self, PublishCommand};
use crate::shell::{Step, cargo, has_standard_library, run_all, succeeds};
use crate::standalone;
use crate::tidy;
use crate::{TEST_FEATURES, test_steps};
use crate::{examples, hw_test, lab};

/// The oldest toolchain that the libraries build with.
pub const OLDEST: &str = "1.85.0";

/// Other targets that must compile, including the tests. Nothing is linked, so
/// no C compiler is needed.
const OTHER_TARGETS: [&str; 2] = ["aarch64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu"];

/// The time limit for building a kernel.
const KERNEL_BUILD: Duration = Duration::from_secs(25 * 60);

/// Checks everything.
pub fn run() -> Result<(), String> {
    install()?;
    tidy::check()?;
    standalone::check()?;
    publish::run(&PublishCommand::Check { release: false })?;
    publish::run(&PublishCommand::Dependencies)?;
    let mut steps = vec![
        Step::cargo("format", &["fmt", "--all", "--check"]),
        clippy(&[&["--workspace", "--all-targets"], &TEST_FEATURES[..]].concat()),
        // Without the standard library.
        clippy(&["-p", "guest-ranges", "--lib", "--no-default-features"]),
        clippy(&[
            "-p",
            "guest-ranges",
            "--lib",
            "--no-default-features",
            "--features",
            "serde",
        ]),
        // Without the system calls and the standard library. Only the library,
        // because its tests switch them on.
        clippy(&["-p", "vfio-private", "--lib"]),
        clippy(&["-p", "vfio-private", "--lib", "--features", "vfio-dma"]),
        // Without memory-model, and without kvm-slots. Only the library, because
        // its tests switch both on.
        clippy(&["-p", "vfio-dma", "--lib", "--no-default-features"]),
        clippy(&["-p", "vfio-dma", "--lib", "--features", "memory-model"]),
        clippy(&[
            "-p",
            "vfio-dma",
            "--lib",
            "--no-default-features",
            "--features",
            "kvm-slots",
        ]),
        // Without kvm-slots. Only the library, because its tests switch it on.
        clippy(&["-p", "memory-map", "--lib"]),
        clippy(&["-p", "bar-report", "--all-targets", "--no-default-features"]),
        // Only the library, because its tests switch every feature on.
        clippy(&["-p", "kvm-slots", "--no-default-features"]),
        clippy(&[
            "-p",
            "kvm-slots",
            "--no-default-features",
            "--features",
            "sim,vcpu-gate",
        ]),
        Step::cargo(
            "docs",
            &["doc", "--workspace", "--no-deps", "--all-features"],
        )
        .env("RUSTDOCFLAGS", "-D warnings"),
    ];
    steps.extend(OTHER_TARGETS.into_iter().filter_map(other_target));
    steps.extend(oldest()?);
    steps.extend(test_steps());
    // Without optimisation, a TiB takes minutes.
    steps.push(
        Step::cargo("every other page of a TiB", &["test", "--release"])
            .with(&["-p", "guest-ranges", "--test", "it", "page_set::"])
            .requiring_tests(),
    );
    steps.extend(standalone::steps());
    run_all(&steps)?;
    examples::run()?;
    publish::run(&PublishCommand::Semver)?;
    publish::run(&PublishCommand::DryRun)?;
    hardware_tests()
}

/// The hardware tests, on this machine, on the simulated KVM, on the lab kernels
/// that have everything, and on Arm. No machine of two processors: the emulator of
/// one has hung for an unknown reason. A fresh machine may lack the tools or the
/// kernels, and a package archive to get them from. That is reported and is not
/// a failure; a failing test is.
fn hardware_tests() -> Result<(), String> {
    if let Err(error) = lab::doctor::install() {
        eprintln!("xtask: lab: its tools cannot be installed: {error}");
    }
    let names = [
        "host",
        "simulated",
        "lab-7.3",
        "lab-7.3-private-mmio",
        "arm64-debian-7.3",
    ];
    hw_test::run_where_possible(&names, KERNEL_BUILD)
}

/// Installs tools that a fresh toolchain may lack.
fn install() -> Result<(), String> {
    for (component, command) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let is_there = || succeeds(&cargo(), &[command, "--version"]);
        if !is_there() {
            succeeds("rustup", &["component", "add", component]);
        }
        if !is_there() {
            return Err(format!(
                "`cargo {command}` is missing: rustup component add {component}"
            ));
        }
    }
    Ok(())
}

/// Lints. Every warning is an error, and so is an `unsafe` block without a
/// comment.
fn clippy(selection: &[&str]) -> Step {
    let lints = [
        "--",
        "-D",
        "warnings",
        "-D",
        "clippy::undocumented_unsafe_blocks",
    ];
    Step::cargo("lints", &["clippy"])
        .with(selection)
        .with(&lints)
}

/// Checks the whole workspace for another architecture, without linking. If its
/// standard library cannot be installed, the step is skipped with a message.
fn other_target(target: &str) -> Option<Step> {
    if !has_standard_library(target) {
        eprintln!(
            "xtask: {target}: SKIPPED: its standard library cannot be installed: \
             rustup target add {target}"
        );
        return None;
    }
    let check = Step::cargo(target, &["check", "--workspace", "--all-targets"]);
    let check = check.with(&TEST_FEATURES).with(&["--target", target]);
    Some(check.env("RUSTFLAGS", "-D warnings"))
}

/// The libraries with the oldest toolchain that they support. If it cannot be
/// installed, the step is skipped with a message.
fn oldest() -> Result<Option<Step>, String> {
    let toolchain = format!("+{OLDEST}");
    let is_there = || succeeds("rustup", &["run", OLDEST, "rustc", "--version"]);
    if !is_there() {
        succeeds(
            "rustup",
            &["toolchain", "install", OLDEST, "--profile", "minimal"],
        );
    }
    if !is_there() {
        eprintln!("xtask: oldest toolchain: SKIPPED: Rust {OLDEST} cannot be installed");
        return Ok(None);
    }
    let step = Step::rustup_cargo("oldest toolchain", &[&toolchain, "check", "--all-features"]);
    // A separate folder, so that the toolchains do not rebuild each other's
    // work.
    let packages = Packages::of_workspace()?;
    let libraries = packages.in_order()?.into_iter();
    let step = libraries.fold(step, |step, library| step.with(&["-p", &library.name]));
    Ok(Some(step.with(&["--target-dir", "target/oldest"])))
}
