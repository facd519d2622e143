// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The user's terminal is restored however the VMM ends.
//!
//! The terminal of a process is its standard input, so each test starts this program
//! again on a pseudoterminal: [`a_process_makes_its_terminal_raw`] is what runs there.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, sink};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use vmm::boot::outcome::{End, Outcome};
use vmm::boot::serial::SerialPort;
use vmm::boot::signals::end_on_signals;
use vmm::boot::terminal::{Terminal, spawn_input};
use vmm_sys_util::eventfd::EventFd;

/// What the process does once its terminal is raw.
const ACTION: &str = "VMM_TEST_TERMINAL";

#[test]
fn a_process_makes_its_terminal_raw() {
    let Ok(action) = env::var(ACTION) else {
        return;
    };
    let end = End::default();
    end_on_signals(end.clone()).unwrap();
    let _terminal = Terminal::raw().unwrap().expect("a terminal");
    let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let serial = SerialPort::new(interrupt, Box::new(sink()), end.clone());
    spawn_input(Arc::new(serial), end.clone()).unwrap();
    println!("\nraw");
    match action.as_str() {
        "panic" => {
            end.wait();
            let panics = thread::spawn(|| panic!("a readable message"));
            assert!(panics.join().is_err());
            // The terminal must be restored while the process goes on.
            thread::park();
        }
        "hang" => thread::park(),
        _ => assert_eq!(end.wait(), Outcome::Left),
    }
}

/// A process whose terminal is raw.
struct Process {
    child: Child,
    keyboard: File,
    terminal: File,
    before: String,
}

impl Process {
    fn start(action: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        // A signal that is ignored at the start stays so, and this program may have been
        // started in the background.
        // SAFETY: the calls are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        Self::start_by(command, action)
    }

    /// `command` starts this program with the arguments that are added.
    fn start_by(mut command: Command, action: &str) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = File::from(ioctl_tiocgptpeer(&keyboard, flags).unwrap());
        let before = attributes(&terminal);
        let mut child = command
            .args(["--exact", "--nocapture"])
            .arg("boot::terminal::a_process_makes_its_terminal_raw")
            .env(ACTION, action)
            .stdin(terminal.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "raw"), "it did not start");
        let modes = tcgetattr(&terminal).unwrap().local_modes;
        assert!(!modes.intersects(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO));
        let keyboard = keyboard.into();
        Self {
            child,
            keyboard,
            terminal,
            before,
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn is_restored(&self) -> bool {
        attributes(&self.terminal) == self.before
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let exited = || self.child.try_wait().unwrap();
        eventually(exited).expect("the process does not end")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn attributes(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

/// Tries for 20 seconds.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Some(value) = attempt() {
            return Some(value);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn leaving_by_key_restores_the_terminal() {
    let mut process = Process::start("wait");
    process.keyboard.write_all(b"guest\x01x").unwrap();
    assert!(process.wait().success());
    assert!(process.is_restored());
}

#[test]
fn signals_end_the_guest_and_restore_the_terminal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut process = Process::start("wait");
        process.signal(signal);
        assert!(process.wait().success(), "{signal:?}");
        assert!(process.is_restored(), "{signal:?}");
    }
}

#[test]
fn signals_that_the_process_ignores_do_not_end_the_guest() {
    let mut ignores = Command::new("sh");
    ignores.args(["-c", "trap '' HUP INT QUIT TERM; exec \"$0\" \"$@\""]);
    ignores.arg(env::current_exe().unwrap());
    let mut process = Process::start_by(ignores, "wait");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
        process.signal(signal);
    }
    thread::sleep(Duration::from_millis(100));
    assert!(process.child.try_wait().unwrap().is_none());
    assert!(!process.is_restored());
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(process.is_restored());
}

#[test]
fn a_second_signal_ends_a_vmm_that_hangs() {
    let mut process = Process::start("hang");
    process.signal(Signal::TERM);
    eventually(|| process.is_restored().then_some(())).expect("the terminal stays raw");
    assert!(process.child.try_wait().unwrap().is_none());
    // The first signal is reported right after the terminal is restored.
    let ended = || {
        process.signal(Signal::TERM);
        process.child.try_wait().unwrap()
    };
    assert!(!eventually(ended).expect("it hangs").success());
}

#[test]
fn a_panic_restores_the_terminal_before_its_message() {
    let mut process = Process::start("panic");
    process.keyboard.write_all(b"\x01x").unwrap();
    let mut message = [0; 256];
    let stderr = process.child.stderr.as_mut().unwrap();
    let read = stderr.read(&mut message).unwrap();
    assert!(process.is_restored());
    let mut text = String::from_utf8_lossy(&message[..read]).into_owned();
    let mut rest = BufReader::new(process.child.stderr.as_mut().unwrap()).lines();
    while !text.contains("a readable message") {
        text += &rest.next().expect("no message").unwrap();
    }
    assert!(process.child.try_wait().unwrap().is_none());
}
