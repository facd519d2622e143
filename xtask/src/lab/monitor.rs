// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The emulator's monitor. A machine that hangs is asked where it hangs.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::architecture::Architecture;
use super::cache;

/// How long the emulator may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket of a machine's monitor.
#[derive(Debug)]
pub struct Monitor {
    path: PathBuf,
}

impl Monitor {
    /// A monitor for the environment of this name. Its socket is in the folder for
    /// temporary files, because the path of a socket must be short.
    pub fn new(name: &str) -> Self {
        let file = format!("private-mmio-lab.{}.{name}", std::process::id());
        Self {
            path: std::env::temp_dir().join(file),
        }
    }

    /// The emulator's option for it.
    pub fn option(&self) -> OsString {
        let mut option = OsString::from("unix:");
        option.push(&self.path);
        option.push(",server=on,wait=off");
        option
    }

    /// The registers of all processors. Afterwards, on an architecture that has
    /// non-maskable interrupts, the kernel panics and writes the stacks of its
    /// tasks and processors to the console, for which it gets some seconds.
    pub fn examine(&self, architecture: &Architecture) -> String {
        let mut said = self.ask("info registers -a", PATIENCE);
        if architecture.has_nmi {
            said += &self.ask("nmi", PATIENCE);
        }
        said
    }

    /// The answer to a command, or why there is none. The answer has ended if
    /// nothing arrives for a while.
    fn ask(&self, command: &str, patience: Duration) -> String {
        let start = Instant::now();
        let mut answer = Vec::new();
        let mut talk = || {
            let mut stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(patience / 4))?;
            stream.write_all(command.as_bytes())?;
            stream.write_all(b"\n")?;
            let mut bytes = [0; 4096];
            while start.elapsed() < patience {
                match stream.read(&mut bytes) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => answer.extend_from_slice(&bytes[..length]),
                }
            }
            Ok::<(), std::io::Error>(())
        };
        match talk() {
            Ok(()) => String::from_utf8_lossy(&answer).replace('\r', "") + "\n",
            Err(error) => format!("the emulator's monitor cannot be asked: {error}\n"),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = cache::remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_is_what_the_emulator_says_to_the_command() {
        let monitor = Monitor::new("answers");
        let listener = UnixListener::bind(&monitor.path).expect("bound");
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut command = [0; 5];
            stream.read_exact(&mut command).expect("a command");
            stream.write_all(b"CPU#0\r\nRIP=").expect("answered");
            stream.write_all(&command).expect("answered");
        });
        let answer = monitor.ask("regs", Duration::from_secs(5));
        answering.join().expect("it answered");
        assert_eq!(answer, "CPU#0\nRIP=regs\n\n");
    }

    #[test]
    fn an_emulator_that_does_not_answer_costs_bounded_time() {
        let monitor = Monitor::new("silent");
        let _listener = UnixListener::bind(&monitor.path).expect("bound");
        let start = Instant::now();
        let answer = monitor.ask("info", Duration::from_millis(200));
        assert_eq!(answer, "\n");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn an_emulator_that_is_gone_is_a_message() {
        let answer = Monitor::new("gone").ask("info", PATIENCE);
        assert!(answer.contains("cannot be asked"), "{answer}");
    }
}
