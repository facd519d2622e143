// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The library itself, with a program that is made for it (`program.c`).

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{EXIT_ENDED, Program, Run, run, same};
use libtest_mimic::{Arguments, Failed, Trial};

/// Keeps functions apart, with a frame and a symbol for each.
const COMPILER: [&str; 7] = [
    "-O2",
    "-no-pie",
    "-fno-inline",
    "-fno-ipa-sra",
    "-fno-ipa-cp",
    "-fno-partial-inlining",
    "-fno-optimize-sibling-calls",
];

type Test = fn(&Path) -> Result<(), String>;

const TESTS: [(&str, Test); 8] = [
    ("what_is_simulated_is_answered", answers),
    (
        "what_is_not_simulated_ends_the_subtest_and_the_program_goes_on",
        ends,
    ),
    (
        "the_caller_of_an_ended_subtest_finds_its_registers",
        registers,
    ),
    ("without_a_subtest_the_process_ends", no_subtest),
    ("a_subtest_is_not_left_through_the_c_library", callback),
    ("a_child_process_ends_and_does_not_return", child),
    ("a_failed_assertion_keeps_its_status", failed),
    ("a_subtest_that_the_program_lacks_is_an_error", no_function),
];

fn main() {
    let arguments = Arguments::from_args();
    let program = match cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
        true => compile(),
        false => Err("the library is for x86-64 and glibc".into()),
    };
    let trials = TESTS.iter().map(|(name, test)| match program.clone() {
        Ok(program) => Trial::test(*name, move || test(&program).map_err(Failed::from)),
        Err(why) => Trial::test(*name, || Ok(()))
            .with_kind(format!("skipped: {why}"))
            .with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// The compiled program, or why there is none.
fn compile() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("program");
    let compiled = Command::new("cc")
        .args(COMPILER)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .output();
    match compiled {
        Ok(output) if output.status.success() => Ok(program),
        Ok(_) => Err("cc compiles no program with the C library's headers".into()),
        Err(error) => Err(format!("cc: {error}")),
    }
}

/// Runs subtests of the program, of which the library may end all.
fn run_subtests(program: &Path, subtests: &[&'static str]) -> Result<Run, String> {
    run_ending(program, subtests, subtests)
}

/// Runs subtests of the program, of which the library may end some.
fn run_ending(
    program: &Path,
    subtests: &[&'static str],
    may_end: &[&'static str],
) -> Result<Run, String> {
    run(&Program {
        path: program.into(),
        arguments: subtests.iter().map(ToString::to_string).collect(),
        kernel: "7.3,private",
        subtests: may_end.to_vec(),
    })
}

fn went_on(run: &Run) -> Result<(), String> {
    same(&run.output, run.output.contains("the end"), true)
}

fn answers(program: &Path) -> Result<(), String> {
    let subtests = [
        "test_slots",
        "test_files",
        "test_fixed_mapping",
        "test_munmap",
    ];
    let run = run_subtests(program, &subtests)?;
    same(&run.output, run.status, Some(0))?;
    went_on(&run)?;
    same("what ended", run.ends(), vec![])?;
    let slots = [
        ("KVM_CREATE_VM", 1),
        ("KVM_SET_USER_MEMORY_REGION2", 3),
        ("open", 1),
    ];
    same("slots", run.of("test_slots"), slots.into())?;
    same("maps", run.of("test_fixed_mapping").get("mmap"), Some(&2))
}

fn ends(program: &Path) -> Result<(), String> {
    let subtests = [
        "test_attribute_flags",
        "test_madvise",
        "test_mbind",
        "test_populate",
        "test_unknown_ioctl",
        "test_vcpu",
    ];
    let run = run_subtests(program, &subtests)?;
    same(&run.output, run.status, Some(EXIT_ENDED))?;
    went_on(&run)?;
    let calls = [
        "KVM_SET_MEMORY_ATTRIBUTES",
        "madvise of a guest_memfd",
        "mbind of a guest_memfd",
        "mmap",
        "ioctl 0xae99",
        "KVM_CREATE_VCPU",
    ];
    let due = subtests.into_iter().zip(calls).collect();
    same("what ended", run.ends(), due)
}

fn registers(program: &Path) -> Result<(), String> {
    let run = run_subtests(program, &["test_registers"])?;
    same(&run.output, run.status, Some(EXIT_ENDED))?;
    went_on(&run)
}

fn no_subtest(program: &Path) -> Result<(), String> {
    let run = run_ending(program, &["test_vcpu"], &[])?;
    same(&run.output, run.status, Some(EXIT_ENDED))?;
    same(&run.output, run.output.contains("the end"), false)?;
    same("what ended", run.ends(), vec![("-", "KVM_CREATE_VCPU")])
}

fn callback(program: &Path) -> Result<(), String> {
    let run = run_subtests(program, &["test_callback"])?;
    same(&run.output, run.status, Some(EXIT_ENDED))?;
    same(&run.output, run.output.contains("the end"), false)
}

fn child(program: &Path) -> Result<(), String> {
    let run = run_ending(program, &["test_child"], &["test_vcpu"])?;
    same(&run.output, run.status, Some(0))?;
    went_on(&run)
}

/// A plain VM of 6.12 has no guest_memfd to map.
fn failed(program: &Path) -> Result<(), String> {
    let run = run(&Program {
        path: program.into(),
        arguments: vec!["test_fixed_mapping".into()],
        kernel: "6.12",
        subtests: vec![],
    })?;
    same(&run.output, run.status, Some(254))?;
    same(
        &run.output,
        run.output.contains("does not hold: the address"),
        true,
    )
}

fn no_function(program: &Path) -> Result<(), String> {
    match run_ending(program, &["test_slots"], &["test_slots", "test_of_another"]) {
        Ok(run) => Err(format!("it ran: {:?}", run.status)),
        Err(why) => {
            let said = "the program has no function test_of_another";
            same(&why, why.contains(said), true)
        }
    }
}
