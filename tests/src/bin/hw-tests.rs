// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the hardware tests and prints one JSON object per line: first the host
//! and the names of all tests, then the start and the end of each test, last
//! the number of tests. So a reader knows which test hung, and whether the
//! output is complete. `--only TEXT[,TEXT]...` runs the tests with these texts in
//! their names. `--selftests none|quick|all` selects among the kernel's own selftests.
//! With `--require NEED[,NEED]...`, a test that lacks one of these needs fails; others
//! are skipped.
//! `--differential-ops N` sets the number of operations of each
//! differential test. `--guest-sees-seconds N` sets how long each `guest_sees`
//! test runs. `--boot VMM KERNEL INITRD` sets what the tests of `vmm boot` use
//! outside of the lab. These run no test, and print what something costs:
//!
//! - `--access-costs`: an access to a device.
//! - `--bar-costs`: giving the guest a BAR.
//! - `--boot-calls STRACE QEMU VMM KERNEL INITRD`: booting Linux, in requests to
//!   KVM.
//! - `--read-costs private|public`: a guest's read of an assigned disk, with or
//!   without private MMIO. The guest runs `--read-disk DEVICE`.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::boot::calls::{self, Files};
use tests::boot::{reader, reads};
use tests::hardware::{self, Ended, Message};
use tests::needs::{self, Host, Need, Unmet};
use tests::selftests::{self, Selection};
use tests::{differential, end_to_end, syscalls};

fn main() -> ExitCode {
    if let Some(code) = syscalls::of_traced_child() {
        return code;
    }
    let (only, required) = match arguments(std::env::args().skip(1)) {
        Ok(Command::Tests { only, required }) => (only, required),
        Ok(Command::AccessCosts) => return measured(access_costs()),
        Ok(Command::BarCosts) => return measured(bar_costs()),
        Ok(Command::ConversionCosts) => return measured(conversion_costs()),
        Ok(Command::BootCalls(files)) => return measured(boot_calls(&files)),
        Ok(Command::ReadCosts { private }) => return measured(read_costs(private)),
        Ok(Command::ReadDisk(disk)) => return measured(reader::read(&disk)),
        Err(usage) => {
            eprintln!("hw-tests: {usage}");
            return ExitCode::FAILURE;
        }
    };
    let host = Host::probe();
    let mut tests = hardware::all();
    tests.retain(|test| only.split(',').all(|text| test.name.contains(text)));
    let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    say(&json!({"kernel": host.kernel, "caps": host.capabilities(), "tests": names}));
    let count = tests.len();
    let mut failed = false;
    for test in tests {
        say(&json!({"start": test.name}));
        let start = Instant::now();
        let unmet = needs::unmet(test.needs, &required, |need| host.lacks(need));
        let mut is_unsteady = false;
        let (status, reason) = match unmet {
            Some(Unmet::Skip(why)) => ("skip", Some(why)),
            Some(Unmet::Fail(why)) => ("fail", Some(why)),
            None => match catch_unwind(AssertUnwindSafe(|| test.run(&report))) {
                Ok(Ok(Ended::Passed)) => ("pass", None),
                Ok(Ok(Ended::Skipped(why))) => ("skip", Some(why)),
                Ok(Ok(Ended::Unsteady(why))) => {
                    is_unsteady = true;
                    ("skip", Some(why))
                }
                Ok(Ok(Ended::KnownFailure(why))) => ("known", Some(why)),
                Ok(Err(why)) => ("fail", Some(why)),
                Err(_) => ("fail", Some("it panicked".into())),
            },
        };
        failed |= status == "fail";
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        say(&json!({
            "name": test.name,
            "status": status,
            "reason": reason,
            "ms": ms,
            "is_unsteady": is_unsteady,
        }));
    }
    say(&json!({"end": count}));
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What to do.
enum Command {
    /// Run tests.
    Tests {
        /// Those with these texts in their names.
        only: String,
        /// What the machine must have.
        required: Vec<Need>,
    },
    /// Measure accesses to devices.
    AccessCosts,
    /// Measure giving BARs to a guest.
    BarCosts,
    /// Measure conversions without and with pre-faulting.
    ConversionCosts,
    /// Count the requests to KVM of booting Linux.
    BootCalls(Files),
    /// Measure a guest's reads of a disk.
    ReadCosts {
        /// Whether the kernel has private MMIO.
        private: bool,
    },
    /// Be the guest that reads.
    ReadDisk(String),
}

fn access_costs() -> Result<(), String> {
    for cost in end_to_end::access_costs::costs()? {
        say(&json!({"what": cost.what, "by": cost.by, "ns": cost.ns}));
    }
    Ok(())
}

fn bar_costs() -> Result<(), String> {
    end_to_end::bar_costs::measure(|cost| {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        say(&json!({
            "size": cost.size,
            "by": cost.by,
            "given_us": us(cost.given),
            "first_load_us": us(cost.first_load),
            "loads_us": us(cost.loads),
            "tables_given": cost.tables_given,
            "tables_loaded": cost.tables_loaded,
            "mappings": cost.mappings,
        }));
    })
}

fn conversion_costs() -> Result<(), String> {
    for cost in tests::pre_fault::conversion_costs()? {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        say(&json!({
            "pre_faulted": cost.pre_faulted,
            "faults": cost.faults,
            "converted_us": us(cost.converted),
            "accessed_us": us(cost.accessed),
        }));
    }
    Ok(())
}

fn boot_calls(files: &Files) -> Result<(), String> {
    calls::measure(files, |by, counts| {
        say(&json!({
            "by": by,
            "memslots": counts.memslots,
            "failed": counts.failed,
            "unchanged": counts.unchanged,
            "slots": counts.slots,
            "us": counts.time.as_secs_f64() * 1e6,
            "exits": counts.exits,
        }));
    })
}

fn read_costs(private: bool) -> Result<(), String> {
    reads::measure(private, |cost| {
        say(&json!({
            "by": cost.by,
            "sequential": cost.sequential,
            "random": cost.random,
            "exits": cost.exits,
        }));
    })
}

fn measured(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("hw-tests: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the arguments. Settings of the tests take effect at once.
fn arguments(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut only, mut required) = (String::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--differential-ops" => {
                let number = arguments.next().and_then(|text| text.parse().ok());
                let number = number.ok_or("--differential-ops takes a number")?;
                differential::set_operations(number);
            }
            "--guest-sees-seconds" => {
                let seconds = arguments.next().and_then(|text| text.parse().ok());
                let seconds = seconds.ok_or("--guest-sees-seconds takes a number")?;
                tests::guest_sees::set_seconds(seconds);
            }
            "--boot" => {
                let mut file = || arguments.next().map(PathBuf::from);
                let files = [file(), file(), file()];
                let [Some(vmm), Some(kernel), Some(initrd)] = files else {
                    return Err("--boot takes vmm, a kernel and an initramfs".into());
                };
                tests::boot::set_files([vmm, kernel, initrd]);
            }
            "--access-costs" => return Ok(Command::AccessCosts),
            "--bar-costs" => return Ok(Command::BarCosts),
            "--conversion-costs" => return Ok(Command::ConversionCosts),
            "--read-costs" => {
                let private = match arguments.next().as_deref() {
                    Some("private") => true,
                    Some("public") => false,
                    _ => return Err("--read-costs takes private or public".into()),
                };
                return Ok(Command::ReadCosts { private });
            }
            "--read-disk" => {
                let disk = arguments.next().ok_or("--read-disk takes a device")?;
                return Ok(Command::ReadDisk(disk));
            }
            "--boot-calls" => {
                let mut path = || arguments.next().map(PathBuf::from);
                let mut path = || path().ok_or("--boot-calls takes five paths");
                return Ok(Command::BootCalls(Files {
                    strace: path()?,
                    qemu: path()?,
                    vmm: path()?,
                    kernel: path()?,
                    initrd: path()?,
                }));
            }
            "--selftests" => {
                let selection = arguments.next().and_then(|name| Selection::named(&name));
                let selection = selection.ok_or("--selftests takes none, quick or all")?;
                selftests::select(selection);
            }
            "--require" => {
                let names = arguments.next().ok_or("--require takes needs")?;
                required = needs::required(&names)?;
            }
            "--only" => only = arguments.next().ok_or("--only takes a text")?,
            other => return Err(format!("there is no option '{other}'")),
        }
    }
    Ok(Command::Tests { only, required })
}

/// Prints what a test reports before it ends.
fn report(message: Message) {
    say(&match message {
        Message::Progress(text) => json!({"progress": text}),
        Message::Wrote(wrote) => json!({"wrote": wrote}),
        Message::Note(text) => json!({"note": text}),
    });
}

/// A reader that has closed the pipe is not an error.
fn say(line: &Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
