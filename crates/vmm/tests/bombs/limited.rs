// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs `vmm` with a limit on its time, and measures its memory.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// How much processor time a command may take, in seconds: some ten times the
/// limit of an optimised build.
const SECONDS: u64 = if cfg!(debug_assertions) { 50 } else { 5 };

/// The outcome of a command.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status; `None` if a signal ended it, as the limit on time does.
    pub status: Option<i32>,
    /// The text on standard error.
    pub stderr: String,
    /// How many bytes it printed.
    pub printed: u64,
    /// Its peak memory, in bytes.
    pub memory: u64,
}

/// Runs `vmm` with these arguments.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
pub fn vmm(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let limit = |resource, limit| {
        let limit = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: the structure is whole, and the call only reads it.
        match unsafe { libc::setrlimit(resource, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let limits = move || {
        limit(libc::RLIMIT_CORE, 0)?;
        limit(libc::RLIMIT_CPU, SECONDS)
    };
    // SAFETY: between fork and exec only setrlimit is called, which is
    // async-signal-safe.
    unsafe { command.pre_exec(limits) };
    let mut child = command.spawn().expect("vmm starts");
    let mut stderr = child.stderr.take().expect("a pipe");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let mut stdout = child.stdout.take().expect("a pipe");
    let printed = std::io::copy(&mut stdout, &mut std::io::sink()).expect("what it prints");
    let stderr = errors.join().expect("no panic").expect("text");

    let pid = i32::try_from(child.id()).expect("a process");
    let mut status = 0;
    // SAFETY: numbers only, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for writes; the child is ours, and nothing
    // else waits for it.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    assert_eq!(waited, pid, "{}", std::io::Error::last_os_error());
    Outcome {
        status: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        stderr,
        printed,
        memory: u64::try_from(usage.ru_maxrss).expect("no negative size") << 10,
    }
}
