// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the test program, on this machine or in an emulator, with time limits.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::follow::{Ending, Event, Follower, message};
use super::libtest::Translator;
use super::outcome::Environment;
use crate::lab::{boot, cache};

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// Until the tests start, which includes booting a kernel.
    pub begin: Duration,
    /// Until a test ends.
    pub test: Duration,
    /// For the whole run.
    pub whole: Duration,
    /// Until the program exits after it has reported the end.
    pub leave: Duration,
}

impl TimeLimits {
    /// Enough on a busy machine.
    pub const USUAL: Self = Self {
        begin: Duration::from_secs(180),
        test: Duration::from_secs(300),
        whole: Duration::from_secs(2400),
        leave: Duration::from_secs(15),
    };
}

/// Runs the program on this machine.
///
/// # Errors
/// It cannot be started.
pub fn on_host(
    name: &str,
    mut command: Command,
    limits: TimeLimits,
) -> Result<Environment, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let (follower, ending) = run(name, &mut command, message, limits, || ())?;
    Ok(follower.finish(&ending, None))
}

/// Runs a test program of Cargo's on this machine.
///
/// # Errors
/// It cannot be started.
pub fn libtest(
    name: &str,
    mut command: Command,
    mut translator: Translator,
    limits: TimeLimits,
) -> Result<Environment, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let message = |line: &str| translator.message(line);
    let (follower, ending) = run(name, &mut command, message, limits, || ())?;
    Ok(follower.finish(&ending, None))
}

/// Boots a machine whose console is written to a file. Errors of the emulator
/// are appended to it. If the machine hangs, `examine` says more about it, which
/// is appended too. What `examine` makes the kernel write is not judged.
///
/// # Errors
/// The emulator cannot be started.
pub fn booted(
    name: &str,
    command: &mut Command,
    console: &Path,
    limits: TimeLimits,
    examine: impl FnOnce() -> String,
) -> Result<Environment, String> {
    let complaints = console.with_extension("emulator");
    let file = File::create(&complaints).map_err(|e| cache::at(&complaints, &e))?;
    command.stderr(file);
    let mut hung = None;
    let (follower, ending) = run(name, command, message, limits, || {
        hung = Some((boot::judge(console), examine()));
    })?;
    let (judgement, examined) = hung.unwrap_or_else(|| (boot::judge(console), String::new()));
    let mut said = fs::read(&complaints).unwrap_or_default();
    said.extend_from_slice(examined.as_bytes());
    boot::append(console, &said)?;
    cache::remove(&complaints)?;
    if let Some(warning) = judgement.known_warning() {
        println!("xtask: {name}: the kernel gave a warning that is known: {warning}");
    }
    let mut environment = follower.finish(&ending, judgement.complaint());
    environment.console = Some(console.to_path_buf());
    environment.console_end = boot::console(console);
    Ok(environment)
}

/// Follows a command until it ends or exceeds a limit. If nothing more is heard of
/// it before it has reported the end of its tests, `examine` is called before it is
/// killed.
fn run(
    name: &str,
    command: &mut Command,
    mut message: impl FnMut(&str) -> Option<Value>,
    limits: TimeLimits,
    examine: impl FnOnce(),
) -> Result<(Follower, Ending), String> {
    let start = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    let lines = lines_of(&mut child);
    let mut follower = Follower::new(name);
    let ending = loop {
        let now = match (follower.has_begun(), follower.has_ended()) {
            (_, true) => limits.leave,
            (false, _) => limits.begin,
            (true, _) => limits.test,
        };
        let left = limits.whole.saturating_sub(start.elapsed());
        match lines.recv_timeout(now.min(left)) {
            Ok(line) => {
                if let Some(event) = message(&line).and_then(|it| follower.message(it)) {
                    show(name, start, &event);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break Ending::Closed,
            Err(RecvTimeoutError::Timeout) if now < left => break Ending::Silent(now.as_secs()),
            Err(RecvTimeoutError::Timeout) => break Ending::TooLong(limits.whole.as_secs()),
        }
    };
    if matches!(ending, Ending::Silent(_)) && !follower.has_ended() {
        examine();
    }
    // Do not wait for the program any longer.
    let _ = child.kill();
    let _ = child.wait();
    Ok((follower, ending))
}

fn show(name: &str, start: Instant, event: &Event) {
    let seconds = start.elapsed().as_secs_f32();
    match event {
        Event::Up(release) => eprintln!("  {name}: Linux {release} is up after {seconds:.1} s"),
        Event::Begun(count) => eprintln!("  {name}: {count} tests"),
        Event::Note(note) => eprintln!("  {name}: note: {note}"),
        Event::Ended(test) => {
            let word = test.status.word();
            eprintln!("  {name}: {word}  {} ({} ms)", test.name, test.ms);
        }
    }
}

/// The lines that a program prints, as they arrive.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (to, from) = channel();
    if let Some(out) = child.stdout.take() {
        thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut line = Vec::new();
            // Lines can be garbled. Invalid text does not end the output.
            while matches!(out.read_until(b'\n', &mut line), Ok(1..)) {
                if to
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
                line.clear();
            }
        });
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw_test::outcome::Status;

    const SHORT: TimeLimits = TimeLimits {
        begin: Duration::from_secs(5),
        test: Duration::from_millis(300),
        whole: Duration::from_secs(20),
        leave: Duration::from_millis(300),
    };

    const BEGIN: &str = r#"echo '{"kernel":"k","caps":{},"tests":["a"]}'; echo '{"start":"a"}';"#;
    const PASS: &str = r#"echo '{"name":"a","status":"pass","reason":null,"ms":1}';"#;
    const END: &str = r#"echo '{"end":1}';"#;

    fn shell(script: &str, limits: TimeLimits) -> Environment {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        let (follower, ending) =
            run("it", &mut command, message, limits, || ()).expect("sh starts");
        follower.finish(&ending, None)
    }

    #[test]
    fn a_program_that_reports_its_end_is_good_even_if_it_lingers() {
        assert!(shell(&format!("{BEGIN}{PASS}{END}"), SHORT).is_good());
        let start = Instant::now();
        assert!(shell(&format!("{BEGIN}{PASS}{END} exec sleep 60"), SHORT).is_good());
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_fails() {
        let environment = shell(&format!("{BEGIN} exec sleep 60"), SHORT);
        let outcome = environment.outcome("a").expect("it is listed");
        assert_eq!(outcome.status, Status::Fail);
        assert!(environment.failure.is_some());
    }

    #[test]
    fn a_program_that_talks_forever_is_ended_and_fails() {
        let limits = TimeLimits {
            test: Duration::from_secs(10),
            whole: Duration::from_secs(1),
            ..SHORT
        };
        let environment = shell(&format!("{BEGIN} while sleep 0.1; do echo; done"), limits);
        let failure = environment.failure.expect("it failed");
        assert!(failure.contains("longer than 1 s"), "{failure}");
    }

    #[test]
    fn bytes_that_are_not_text_do_not_end_the_output() {
        let noise = r"printf '\377\376\n';";
        assert!(shell(&format!("{BEGIN}{noise}{PASS}{END}"), SHORT).is_good());
    }

    #[test]
    fn a_machine_that_hangs_is_examined_and_one_that_ends_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let console = folder.path().join("console.log");
        for (end, is_examined) in [("exec sleep 60", true), (END, false)] {
            cache::remove(&console).expect("removed");
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{BEGIN}{PASS}{end}")]);
            command.stdout(Stdio::piped());
            let examine = || "PC=0123".to_string();
            booted("it", &mut command, &console, SHORT, examine).expect("sh starts");
            assert_eq!(boot::console(&console).contains("PC=0123"), is_examined);
        }
    }

    #[test]
    fn a_machine_that_hangs_is_not_reported_as_the_panic_of_its_examination() {
        let folder = tempfile::tempdir().expect("a folder");
        let console = folder.path().join("console.log");
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::piped());
            let panic = "Kernel panic - not syncing: NMI: Not continuing";
            let examine = || {
                fs::write(&console, panic).expect("written");
                String::new()
            };
            booted("it", &mut command, &console, SHORT, examine).expect("sh starts")
        };
        let hung = run(&format!("{BEGIN} exec sleep 60"));
        let failure = hung.failure.expect("it hung");
        assert!(failure.contains("nothing was heard"), "{failure}");
        assert!(boot::console(&console).contains("NMI"));
        cache::remove(&console).expect("removed");
        let slow = run(&format!("{BEGIN}{PASS}{END} exec sleep 60"));
        assert!(slow.is_good(), "{slow:?}");
    }

    #[test]
    fn a_machine_that_panics_fails_although_all_tests_passed() {
        let folder = tempfile::tempdir().expect("a folder");
        let console = folder.path().join("console.log");
        let panic = format!(
            "echo 'Kernel panic - not syncing: it' >{};",
            console.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{panic}{BEGIN}{PASS}{END}")]);
        command.stdout(Stdio::piped());
        let environment =
            booted("it", &mut command, &console, SHORT, String::new).expect("sh starts");
        assert!(!environment.is_good());
        assert_eq!(environment.console.as_deref(), Some(console.as_path()));
    }
}
