// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls of each operation, compared with `docs/syscalls.md`.
//!
//! A test starts its own program again, as a child that carries the operations out, and
//! traces the child. So the trace has no calls of other tests.

mod conversions;
mod dirty;
mod memslots;
mod names;
mod table;
mod tracer;
mod vfio;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use vfio_private::device::VfioInterface;

use crate::hardware::Ended;
use crate::needs::Need;
use crate::vfio::Model;
use crate::{check::at, vcpu_gate};
use table::{Page, Row, page};
use tracer::{Traced, trace};

/// What a child is to carry out, by the name of the test.
const VARIABLE: &str = "TRACED_OPERATIONS";

/// The exit code of a child that lacks something.
const SKIPPED: u8 = 77;

/// The most seconds that a child may take, also on an emulated processor.
const LIMIT: u32 = 300;

/// Operations that a child carries out.
#[derive(Clone, Copy, Debug)]
pub struct SyscallTest {
    /// The name of the test.
    pub name: &'static str,
    /// What the machine must have.
    pub needs: &'static [Need],
    /// The operations, as the page names them. All of them are carried out.
    operations: &'static [&'static str],
    run: fn() -> Result<Ended, String>,
}

/// All tests.
pub const TESTS: [SyscallTest; 11] = [
    SyscallTest {
        name: "memslots",
        needs: &[Need::Kvm, Need::UserMemory2],
        operations: memslots::OPERATIONS,
        run: memslots::run,
    },
    SyscallTest {
        name: "guest_memfds",
        needs: &[Need::GuestMemfd],
        operations: memslots::WITH_GUEST_MEMFD,
        run: memslots::run_with_guest_memfd,
    },
    SyscallTest {
        name: "dirty_logs",
        needs: &[Need::Kvm, Need::UserMemory2],
        operations: dirty::WITH_LOGS,
        run: dirty::run_with_logs,
    },
    SyscallTest {
        name: "dirty_logs_that_are_cleared",
        needs: &[Need::UserMemory2, Need::ManualProtect],
        operations: dirty::WITH_CLEARED_LOGS,
        run: dirty::run_with_cleared_logs,
    },
    SyscallTest {
        name: "dirty_rings",
        needs: &[Need::UserMemory2, Need::DirtyRing],
        operations: dirty::WITH_RINGS,
        run: dirty::run_with_rings,
    },
    SyscallTest {
        name: "conversions",
        needs: &[Need::PrivatePages],
        operations: conversions::OPERATIONS,
        run: conversions::run,
    },
    SyscallTest {
        name: "conversions_in_files",
        needs: &[Need::FileAttributes],
        operations: conversions::IN_FILES,
        run: conversions::run_in_files,
    },
    SyscallTest {
        name: "pre_faults",
        needs: &[Need::PrivatePages, Need::PreFault],
        operations: conversions::WITH_PRE_FAULT,
        run: conversions::run_with_pre_fault,
    },
    SyscallTest {
        name: "vcpu_gate",
        needs: &[Need::Vcpus],
        operations: vcpu_gate::calls::OPERATIONS,
        run: vcpu_gate::calls::run,
    },
    SyscallTest {
        name: "vfio_with_a_group",
        needs: &[
            Need::VfioInterface(VfioInterface::LegacyGroup),
            Need::Vfio(Model::Edu),
        ],
        operations: vfio::WITH_GROUP,
        run: || vfio::run(VfioInterface::LegacyGroup),
    },
    SyscallTest {
        name: "vfio_with_a_cdev",
        needs: &[
            Need::VfioInterface(VfioInterface::Cdev),
            Need::Vfio(Model::Edu),
        ],
        operations: vfio::WITH_CDEV,
        run: || vfio::run(VfioInterface::Cdev),
    },
];

/// Runs `operation` as the page's row of that name, if this process is traced.
///
/// # Panics
/// If there is no such row.
pub(crate) fn during<T>(operation: &str, run: impl FnOnce() -> T) -> T {
    match page() {
        Ok(page) => tracer::during(page, operation, run),
        Err(error) => panic!("docs/syscalls.md: {error}"),
    }
}

/// Carries out the operations of a test, if this process is a child that a test has
/// started. Programs with hardware tests call this first.
pub fn of_traced_child() -> Option<ExitCode> {
    let name = std::env::var(VARIABLE).ok()?;
    // SAFETY: the call sets a timer, whose signal ends this process.
    unsafe { libc::alarm(LIMIT) };
    // The test closes it once it traces this process.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let result = match TESTS.iter().find(|test| test.name == name) {
        Some(test) => (test.run)(),
        None => Err(format!("there is no test '{name}'")),
    };
    Some(match result {
        Ok(Ended::Skipped(why)) => {
            println!("{why}");
            ExitCode::from(SKIPPED)
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    })
}

impl SyscallTest {
    /// Traces a child that carries the operations out, and compares.
    ///
    /// # Errors
    /// Each difference between the page and the trace.
    pub fn run(&self) -> Result<Ended, String> {
        let page = page()?;
        let program = std::env::current_exe().map_err(at("this program"))?;
        let child = Command::new(program)
            .env(VARIABLE, self.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn();
        let ended = match trace(child.map_err(at("a child"))?, page) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return Ok(Ended::Skipped(
                    "this process may not trace its child".into(),
                ));
            }
            ended => ended.map_err(at("the trace"))?,
        };
        let output = ended.output.trim();
        match ended.code {
            Some(0) => {}
            Some(code) if code == i32::from(SKIPPED) => return Ok(Ended::Skipped(output.into())),
            code => return Err(format!("the child ended with {code:?}: {output}")),
        }
        let mut faults: BTreeSet<String> = BTreeSet::new();
        for traced in &ended.traced {
            faults.extend(differences(page, &page.rows[traced.row], traced));
        }
        let done = |operation: &str| {
            let row = page.number_of(operation);
            ended.traced.iter().any(|traced| Some(traced.row) == row)
        };
        let left_out = self.operations.iter().filter(|operation| !done(operation));
        faults.extend(left_out.map(|operation| format!("{operation}: it was not traced")));
        match faults.is_empty() {
            true => Ok(Ended::Passed),
            false => Err(Vec::from_iter(faults).join("; ")),
        }
    }
}

/// What the page says of an operation that is not so.
fn differences(page: &Page, row: &Row, traced: &Traced) -> Vec<String> {
    let operation = &row.operation;
    let is_allowed =
        |call: &&String| row.calls().any(|listed| listed == *call) || page.base.contains(*call);
    let unlisted = traced.calls.iter().filter(|call| !is_allowed(call));
    let unlisted = unlisted.map(|call| format!("{operation}: {call} is not listed"));
    let never = row
        .always
        .iter()
        .filter(|one_of| one_of.is_disjoint(&traced.calls));
    let never = never.map(|one_of| {
        let names = Vec::from_iter(one_of.iter().map(String::as_str)).join(" or ");
        format!("{operation}: {names} is listed and was not made")
    });
    unlisted.chain(never).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_row_of_the_page_is_an_operation_of_a_test() {
        let rows: BTreeSet<&str> = page()
            .unwrap()
            .rows
            .iter()
            .map(|row| &*row.operation)
            .collect();
        let tested = TESTS
            .iter()
            .flat_map(|test| test.operations.iter().copied());
        assert_eq!(rows, tested.collect());
    }

    #[test]
    fn each_request_that_a_row_names_has_a_number() {
        let page = page().unwrap();
        let numbered: BTreeSet<&String> = page.requests.values().collect();
        let calls = page.rows.iter().flat_map(Row::calls);
        let named: BTreeSet<&String> = calls
            .filter(|call| call.starts_with(|first: char| first.is_ascii_uppercase()))
            .collect();
        assert_eq!(named, numbered);
    }

    #[test]
    fn a_call_that_is_not_listed_and_one_that_is_not_made_are_differences() {
        let calls = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let page = Page {
            base: calls(&["futex"]),
            ..Page::default()
        };
        let row = Row {
            operation: "it".into(),
            always: vec![
                calls(&["close"]),
                calls(&["socket"]),
                calls(&["stat", "statx"]),
            ],
            only_if: calls(&["fstat"]),
        };
        let traced = |names| Traced {
            row: 0,
            calls: calls(names),
        };
        let same = traced(&["close", "socket", "statx", "futex"]);
        assert_eq!(differences(&page, &row, &same), Vec::<String>::new());
        let other = traced(&["close", "read", "fstat"]);
        let expected = [
            "it: read is not listed",
            "it: socket is listed and was not made",
            "it: stat or statx is listed and was not made",
        ];
        assert_eq!(differences(&page, &row, &other), expected);
    }
}
