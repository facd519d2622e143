// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Traces the threads of a child process by `ptrace`, as every kernel has it.
//!
//! A thread of the child marks the start and the end of an operation by a call that no
//! operation makes. What the thread calls in between is the operation's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::process::Child;
use std::ptr::{null_mut, without_provenance_mut};

use libc::{c_int, c_long, pid_t};

use super::names::name;
use super::table::Page;

/// The option of `prctl` that marks. No kernel has it, so the call changes nothing.
const MARK: u32 = 0x5359_5343;

/// The calls of one operation of one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Traced {
    /// The number of the operation's row.
    pub(super) row: usize,
    /// The calls.
    pub(super) calls: BTreeSet<String>,
}

/// How a child ended, and what it called.
#[derive(Debug)]
pub(super) struct Ended {
    /// The child's exit code; `None` if a signal ended it.
    pub(super) code: Option<i32>,
    /// What it printed.
    pub(super) output: String,
    /// Its operations.
    pub(super) traced: Vec<Traced>,
}

/// Runs an operation, whose calls are traced, if this process is.
pub(super) fn during<T>(page: &Page, operation: &str, run: impl FnOnce() -> T) -> T {
    let Some(row) = page.number_of(operation) else {
        panic!("docs/syscalls.md has no row for '{operation}'");
    };
    mark(row + 1);
    let result = run();
    mark(0);
    result
}

fn mark(what: usize) {
    // SAFETY: the kernel does not know the option, so the call does nothing.
    unsafe { libc::syscall(libc::SYS_prctl, c_long::from(MARK), what, 0, 0, 0) };
}

/// Traces a child that waits for the end of its input, until it ends. The child is the
/// leader of a process group.
///
/// # Errors
/// This process may not trace its children, or a call failed.
pub(super) fn trace(mut child: Child, page: &Page) -> Result<Ended, io::Error> {
    let leader = child.id().cast_signed();
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    let seized = request(libc::PTRACE_SEIZE, leader, options.cast_unsigned() as usize);
    if let Err(error) = seized {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    request(libc::PTRACE_INTERRUPT, leader, 0)?;
    drop(child.stdin.take());

    let mut traced = Vec::new();
    // The operations that threads are in.
    let mut current: BTreeMap<pid_t, Traced> = BTreeMap::new();
    let code = loop {
        let (thread, status) = wait(-leader)?;
        if !libc::WIFSTOPPED(status) {
            current.remove(&thread);
            if thread == leader {
                break libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            }
            continue;
        }
        let signal = match (libc::WSTOPSIG(status), status >> 16) {
            (signal, 0) if signal == libc::SIGTRAP | 0x80 => {
                if let Some((number, arguments)) = entered(thread)? {
                    let is_mark =
                        number == libc::SYS_prctl as u64 && arguments[0] == u64::from(MARK);
                    match (is_mark, arguments[1]) {
                        (true, 0) => traced.extend(current.remove(&thread)),
                        (true, row) => {
                            let row = usize::try_from(row).unwrap_or(0) - 1;
                            let calls = BTreeSet::new();
                            current.insert(thread, Traced { row, calls });
                        }
                        (false, _) => {
                            if let Some(in_it) = current.get_mut(&thread) {
                                in_it.calls.insert(name(page, number, &arguments));
                            }
                        }
                    }
                }
                0
            }
            // A signal for the thread.
            (signal, 0) => signal,
            // A new thread, or the stop that this function has asked for.
            _ => 0,
        };
        let resumed = request(
            libc::PTRACE_SYSCALL,
            thread,
            signal.cast_unsigned() as usize,
        );
        match resumed {
            // It was killed meanwhile.
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    };
    let mut output = String::new();
    if let Some(mut printed) = child.stdout.take() {
        let _ = printed.read_to_string(&mut output)?;
    }
    Ok(Ended {
        code,
        output,
        traced,
    })
}

/// A request whose last argument is a number.
fn request(request: libc::c_uint, thread: pid_t, data: usize) -> Result<(), io::Error> {
    let data: *mut libc::c_void = without_provenance_mut(data);
    // SAFETY: none of the requests of this module that come here reads or writes memory
    // of this process. The kernel refuses threads that are not this process's to trace.
    let result = unsafe { libc::ptrace(request as _, thread, null_mut::<libc::c_void>(), data) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits for any thread of a process group.
fn wait(group: pid_t) -> Result<(pid_t, c_int), io::Error> {
    let mut status = 0;
    // SAFETY: the kernel writes one number, to `status`.
    let thread = unsafe { libc::waitpid(group, &raw mut status, libc::__WALL) };
    match thread {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((thread, status)),
    }
}

/// The call that a stopped thread is about to make; `None` if it returns from one.
fn entered(thread: pid_t) -> Result<Option<(u64, [u64; 6])>, io::Error> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size: *mut libc::c_void = without_provenance_mut(size_of_val(&info));
    // SAFETY: the kernel writes no more bytes than the call allows, which `info` has.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size,
            info.as_mut_ptr(),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: all of it was zero at first, and any bytes are valid numbers.
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: any bytes are valid numbers, and the kernel has written this variant.
    let entry = unsafe { info.u.entry };
    Ok(Some((entry.nr, entry.args)))
}
