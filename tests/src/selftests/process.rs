// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a program in a process group of its own, with a time limit.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its status, unless it exceeded the limit.
    pub status: Option<ExitStatus>,
    /// What it printed to both outputs.
    pub output: String,
}

/// Runs a command until it ends or exceeds the limit. Calls `alive` after each
/// `beat` meanwhile. Processes that the command leaves behind are ended.
///
/// # Errors
/// It cannot be started, or its output cannot be read.
pub fn run(
    command: &mut Command,
    limit: Duration,
    beat: Duration,
    alive: &dyn Fn(),
) -> Result<Finished, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let named = |error: io::Error| format!("{program}: {error}");
    // A pipe would have to be emptied meanwhile, and stay open in processes that
    // are left behind.
    let path = output_path();
    let file = File::create(&path).map_err(named)?;
    let errors = file.try_clone().map_err(named)?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let waited = command
        .process_group(0)
        .spawn()
        .and_then(|mut child| wait(&mut child, limit, beat, alive));
    let output = fs::read(&path);
    let _ = fs::remove_file(&path);
    Ok(Finished {
        status: waited.map_err(named)?,
        output: String::from_utf8_lossy(&output.map_err(named)?).into_owned(),
    })
}

/// A path that no other run of this process uses.
fn output_path() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("selftest-{}-{number}", std::process::id()))
}

/// Waits for a child, and ends its process group.
fn wait(
    child: &mut Child,
    limit: Duration,
    beat: Duration,
    alive: &dyn Fn(),
) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut due = beat;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        match child.try_wait() {
            Ok(None) if start.elapsed() < limit => {}
            other => break other,
        }
        if start.elapsed() >= due {
            alive();
            due += beat;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    end_group(child);
    if !matches!(status, Ok(Some(_))) {
        child.wait()?;
    }
    status
}

fn end_group(child: &Child) {
    let Ok(group) = libc::pid_t::try_from(child.id()) else {
        return;
    };
    // SAFETY: the call accesses no memory. The group is the child's own: no other
    // process can have got its number, because a group that has members keeps it,
    // and this is called right after the child has ended.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn shell(script: &str, limit: Duration) -> Finished {
        let mut command = Command::new("sh");
        run(command.args(["-c", script]), limit, limit, &|| {}).expect("sh starts")
    }

    #[test]
    fn a_program_ends_with_its_status_and_both_outputs() {
        let finished = shell("echo one; echo two >&2; exit 4", Duration::from_secs(20));
        assert_eq!(finished.status.and_then(|status| status.code()), Some(4));
        assert_eq!(finished.output, "one\ntwo\n");
    }

    #[test]
    fn a_program_that_exceeds_its_limit_is_ended_with_its_children() {
        let start = Instant::now();
        let finished = shell("sleep 60 & echo $!; wait", Duration::from_millis(300));
        assert_eq!(finished.status, None);
        assert!(start.elapsed() < Duration::from_secs(30));
        is_gone(&finished.output);
    }

    #[test]
    fn children_that_a_program_leaves_are_ended() {
        let finished = shell("sleep 60 & echo $!", Duration::from_secs(20));
        assert!(finished.status.is_some_and(|status| status.success()));
        is_gone(&finished.output);
    }

    #[test]
    fn a_program_that_runs_for_long_is_reported_to_be_alive() {
        let calls = |beat| {
            let calls = Cell::new(0);
            let alive = || calls.set(calls.get() + 1);
            let mut command = Command::new("sleep");
            let limit = Duration::from_secs(20);
            let finished = run(command.arg("0.3"), limit, beat, &alive).expect("it starts");
            assert!(finished.status.is_some_and(|status| status.success()));
            calls.get()
        };
        assert!(calls(Duration::from_millis(50)) > 0);
        assert_eq!(calls(Duration::from_secs(20)), 0);
    }

    /// The process of this number ends soon, or has ended and is not waited for.
    fn is_gone(number: &str) {
        let stat = format!("/proc/{}/stat", number.trim());
        for _ in 0..100 {
            match fs::read_to_string(&stat) {
                Ok(text) if !text.contains(") Z ") => thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        panic!("process {number} is still there");
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let run = run(
            &mut Command::new("/no/such/program"),
            Duration::ZERO,
            Duration::MAX,
            &|| {},
        );
        assert!(run.is_err_and(|why| why.contains("/no/such/program")));
    }
}
