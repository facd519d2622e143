// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a command in an environment and prints its output.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::apt::Network;
use super::boot::{self, Console};
use super::cache;
use super::disk::Disk;
use super::environment::find;
use super::monitor::Monitor;
use super::{Payload, doctor, make_bootable};
use crate::shell::{build_static_program, root};

/// How long a command may take if its caller sets no limit.
pub const USUAL_LIMIT: Duration = Duration::from_secs(60 * 60);

/// How long a machine may take to switch itself off after its command.
const LEAVE: Duration = Duration::from_secs(15);

/// The lines of the console around the command's errors: see `xtask/lab/init`.
const MARKS: [&str; 2] = ["lab: the command starts", "lab: the command has ended"];

/// A command in an environment.
#[derive(Clone, Copy, Debug)]
struct Order<'a> {
    name: &'a str,
    files: &'a [(&'a str, &'a Path)],
    words: &'a [String],
    selftests: bool,
    devices: &'a [String],
    limit: Option<Duration>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With this exit status.
    With(i64),
    /// Its machine ended first.
    First,
    /// It took longer than this.
    TooLong(Duration),
}

/// Boots an environment, runs a command in it, and prints its output, and its errors
/// when it has ended. `vmm` is on its path. The selftests of its kernel, if it has
/// some, are in `/selftests`.
///
/// # Errors
/// The environment is not available, the command fails or takes longer than `limit`,
/// its machine ends first, or its kernel has an error.
pub fn run(name: &str, words: &[String], limit: Option<Duration>) -> Result<(), String> {
    let architecture = find(name)?.architecture;
    let vmm = build_static_program("vmm", "vmm", &architecture.target)?;
    let order = Order {
        name,
        files: &[("bin/vmm", vmm.as_path())],
        words,
        selftests: true,
        devices: &[],
        limit,
    };
    boot(&order, &mut std::io::stdout())
}

/// Runs a command in an environment and copies its output. `files` and `devices`
/// are as for [`output`].
///
/// # Errors
/// As for [`run`].
pub fn copy(
    name: &str,
    files: &[(&str, &Path)],
    words: &[&str],
    devices: &[String],
    limit: Duration,
    to: &mut impl Write,
) -> Result<(), String> {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    let order = Order {
        name,
        files,
        words: &words,
        selftests: false,
        devices,
        limit: Some(limit),
    };
    boot(&order, to)
}

/// The output of a command in an environment. `files` are put there, by their
/// paths without the first slash. `devices` are arguments of the emulator for
/// devices besides the usual ones.
///
/// # Errors
/// As for [`run`].
pub fn output(
    name: &str,
    files: &[(&str, &Path)],
    words: &[&str],
    devices: &[String],
) -> Result<Vec<u8>, String> {
    let mut printed = Vec::new();
    copy(name, files, words, devices, USUAL_LIMIT, &mut printed)?;
    Ok(printed)
}

fn boot(order: &Order<'_>, to: &mut impl Write) -> Result<(), String> {
    let name = order.name;
    let environment = find(name)?;
    if !environment.is_booted() {
        return Err(format!("{name} is where you are: run it here"));
    }
    let architecture = environment.architecture;
    doctor::can_boot(architecture)?;
    let payload = Payload::Command {
        files: order.files,
        examples: &root().join("examples"),
        words: order.words,
        selftests: order.selftests,
    };
    let made = make_bootable(&[environment], &payload, Network::Daily, None);
    let bootable = made.into_iter().next().ok_or("no environment")??;
    let console = boot::results_folder()?.join(format!("{name}.command.log"));
    let _lock = boot::lock(name, &console)?;
    // Remove the console of an earlier run.
    cache::remove(&console)?;
    let disk = Disk::create(&console.with_extension("disk"))?;
    let mut command = bootable.command(Console::Command(&console), &disk);
    command.args(order.devices);
    let monitor = Monitor::new(name);
    command.arg("-monitor").arg(monitor.option());
    // The emulator's messages matter only if it ends early.
    let complaints = console.with_extension("emulator");
    let file = File::create(&complaints).map_err(|e| cache::at(&complaints, &e))?;
    command.stderr(file);
    let emulator = architecture.qemu.0;
    let mut child = command.spawn().map_err(|e| format!("{emulator}: {e}"))?;
    let out = child.stdout.take().ok_or("the emulator has no output")?;
    let ended = follow(&lines_of(out), order.limit, LEAVE, to);
    // The examination makes the kernel panic.
    let hung = matches!(ended, Ended::TooLong(_)).then(|| boot::judge(&console));
    if hung.is_some() {
        boot::append(&console, monitor.examine(architecture).as_bytes())?;
    }
    let status = end(&mut child).map_err(|e| format!("{emulator}: {e}"))?;
    let judgement = hung.unwrap_or_else(|| boot::judge(&console));
    eprint!("{}", errors(&boot::console(&console)));
    if let Some(warning) = judgement.known_warning() {
        eprintln!("  the kernel gave a warning that is known: {warning}");
    }
    verdict(ended, judgement.complaint()).map_err(|why| {
        let (console, complaints) = (console.display(), complaints.display());
        match ended {
            Ended::First => format!("{why} ({status}); see {console} and {complaints}"),
            Ended::With(_) | Ended::TooLong(_) => format!("{why}; see {console}"),
        }
    })
}

/// The lines that a machine prints, with their line ends, as they arrive.
fn lines_of(out: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (to, from) = channel();
    thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = Vec::new();
        while matches!(out.read_until(b'\n', &mut line), Ok(1..)) {
            if to.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    from
}

/// Copies a command's output until its machine ends. Afterwards, the machine may take
/// as long as `leave` to switch itself off.
fn follow(
    lines: &Receiver<Vec<u8>>,
    limit: Option<Duration>,
    leave: Duration,
    to: &mut impl Write,
) -> Ended {
    let start = Instant::now();
    let mut output = Output::new(to);
    loop {
        let left = match output.exit {
            Some(_) => Some(leave),
            None => limit.map(|limit| limit.saturating_sub(start.elapsed())),
        };
        let line = match left {
            Some(left) => lines.recv_timeout(left),
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match (line, output.exit, limit) {
            (Ok(line), ..) => output.line(&line),
            (Err(_), Some(exit), _) => return Ended::With(exit),
            (Err(why), None, limit) => {
                output.copy(b"");
                return match (why, limit) {
                    (RecvTimeoutError::Timeout, Some(limit)) => Ended::TooLong(limit),
                    _ => Ended::First,
                };
            }
        }
    }
}

/// Copies a command's output, and shows what the init script reports.
#[derive(Debug)]
struct Output<'a, W> {
    to: &'a mut W,
    /// A line end that is not copied yet. The init script writes one before the
    /// status, because the output need not end with one.
    has_line_end: bool,
    exit: Option<i64>,
}

impl<'a, W: Write> Output<'a, W> {
    fn new(to: &'a mut W) -> Self {
        Self {
            to,
            has_line_end: false,
            exit: None,
        }
    }

    fn line(&mut self, line: &[u8]) {
        let text = line.strip_suffix(b"\n");
        // The init script reports one thing at a time. Other objects are the command's.
        let said: Option<Value> = serde_json::from_slice(line).ok();
        let is_report = |said: &Value| said.as_object().is_some_and(|object| object.len() == 1);
        let said = said.filter(is_report);
        let number = |name| said.as_ref()?.get(name)?.as_i64();
        let word = |name| said.as_ref()?.get(name)?.as_str();
        if let Some(release) = word("init") {
            eprintln!("  Linux {release} is up");
        } else if let Some(note) = word("note").or(word("fault")) {
            eprintln!("  note: {note}");
        } else if let Some(status) = number("exit") {
            self.exit = Some(status);
        } else {
            self.copy(text.unwrap_or(line));
            self.has_line_end = text.is_some();
        }
    }

    /// A reader that closes the pipe does not stop the command.
    fn copy(&mut self, text: &[u8]) {
        if self.has_line_end {
            let _ = self.to.write_all(b"\n");
        }
        let _ = self.to.write_all(text).and_then(|()| self.to.flush());
    }
}

/// Waits for a machine that has switched itself off, or kills it.
fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    const BEAT: Duration = Duration::from_millis(50);
    let start = Instant::now();
    while start.elapsed() < LEAVE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(BEAT);
    }
    child.kill()?;
    child.wait()
}

/// What a console has of the command: its errors, and messages of the kernel meanwhile.
fn errors(console: &str) -> &str {
    let [start, end] = MARKS;
    let of_command = console.split_once(start).map_or("", |(_, text)| text);
    let text = of_command
        .split_once(end)
        .map_or(of_command, |(text, _)| text);
    text.strip_prefix('\n').unwrap_or(text)
}

/// Whether a command succeeded, given how it ended and its kernel's error, if any.
fn verdict(ended: Ended, complaint: Option<&str>) -> Result<(), String> {
    let kernel = complaint.map(|words| format!("the kernel says: {words}"));
    let what = match ended {
        Ended::With(0) => None,
        Ended::With(exit) => Some(format!("the command ended with {exit}")),
        Ended::First => Some("the machine ended before the command".into()),
        Ended::TooLong(limit) => {
            let minutes = limit.as_secs().div_ceil(60);
            Some(format!("the command took longer than {minutes} minutes"))
        }
    };
    match (what, kernel) {
        (None, None) => Ok(()),
        (Some(what), Some(kernel)) => Err(format!("{what}: {kernel}")),
        (what, kernel) => Err(what.or(kernel).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn follow_text(text: &'static [u8]) -> (Ended, Vec<u8>) {
        let mut shown = Vec::new();
        let ended = follow(&lines_of(text), Some(MINUTE), MINUTE, &mut shown);
        (ended, shown)
    }

    #[test]
    fn the_output_of_a_command_is_copied_and_the_last_line_is_its_status() {
        let (ended, shown) =
            follow_text(b"{\"init\": \"7.3\"}\none\n\n{\"two\": 2}\n\n{\"exit\": 3}\n");
        assert_eq!(ended, Ended::With(3));
        assert_eq!(shown, b"one\n\n{\"two\": 2}\n");
        let (_, shown) = follow_text(b"{\"exit\": 1, \"n\": 2}\n\n{\"exit\": 0}\n");
        assert_eq!(shown, b"{\"exit\": 1, \"n\": 2}\n");
    }

    #[test]
    fn output_that_ends_without_a_line_end_is_copied_unchanged() {
        let (ended, shown) = follow_text(b"{\"init\": \"7.3\"}\nhello\n{\"exit\": 0}\n");
        assert_eq!((ended, &shown[..]), (Ended::With(0), &b"hello"[..]));
        let (ended, shown) = follow_text(b"{\"init\": \"7.3\"}\n\n{\"exit\": 0}\n");
        assert_eq!((ended, &shown[..]), (Ended::With(0), &b""[..]));
    }

    #[test]
    fn a_command_whose_machine_ends_has_no_status() {
        assert_eq!(follow_text(b"one\n"), (Ended::First, b"one\n".to_vec()));
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_and_a_machine_that_lingers_is_not_waited_for() {
        let (to, lines) = channel();
        let short = Duration::from_millis(50);
        to.send(b"one\n".to_vec()).expect("taken");
        let ended = follow(&lines, Some(short), MINUTE, &mut Vec::new());
        assert_eq!(ended, Ended::TooLong(short));
        to.send(b"{\"exit\": 0}\n".to_vec()).expect("taken");
        let ended = follow(&lines, None, short, &mut Vec::new());
        assert_eq!(ended, Ended::With(0));
    }

    #[test]
    fn an_error_of_the_kernel_fails_a_command_that_succeeded() {
        assert_eq!(verdict(Ended::With(0), None), Ok(()));
        let error = verdict(Ended::With(0), Some("WARNING: it"));
        assert_eq!(error, Err("the kernel says: WARNING: it".into()));
        let error = verdict(Ended::TooLong(2 * MINUTE), Some("BUG: it"));
        let due = "the command took longer than 2 minutes: the kernel says: BUG: it";
        assert_eq!(error, Err(due.into()));
        assert!(verdict(Ended::With(3), None).is_err_and(|e| e.ends_with("ended with 3")));
        assert!(verdict(Ended::First, None).is_err());
    }

    #[test]
    fn the_errors_of_a_command_are_those_between_the_marks_of_the_init_script() {
        let init = root().join("xtask").join("lab").join("init");
        let init = std::fs::read_to_string(init).expect("the script");
        for mark in MARKS {
            assert!(init.contains(&format!("echo '{mark}'")), "{mark}");
        }
        let [start, end] = MARKS;
        let console = format!("[1.0] Linux\n{start}\nno such file\n{end}\n[2.0] reboot\n");
        assert_eq!(errors(&console), "no such file\n");
        assert_eq!(errors(&format!("{start}\nhalf")), "half");
        assert_eq!(errors("[1.0] Linux\n"), "");
    }
}
