// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a guest's console goes: an output of this process, whose reader may be slow, stuck
//! or gone.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::isatty;

use super::notes::Notes;
use super::outcome::End;

/// How often a writer that waits for its reader looks whether the guest is over.
const PERIOD: Duration = Duration::from_millis(50);

/// The most bytes of a write. A terminal or a pipe that can be written takes as many without
/// blocking.
const MOST: usize = 256;

/// A guest's console. A write waits for the reader and loses nothing while the guest runs,
/// whether the output blocks or not. When the guest is over, what is not taken is lost, which
/// is noted: the vCPU that writes must be able to stop.
///
/// It does not use the buffers and locks of the standard library, which the VMM needs for its
/// own messages.
#[derive(Debug)]
pub struct Console {
    out: OwnedFd,
    end: End,
    notes: Notes,
    is_lost: bool,
}

impl Console {
    /// The console of the guest that ends with `end`.
    pub fn new(out: OwnedFd, end: End, notes: Notes) -> Self {
        Self {
            out,
            end,
            notes,
            is_lost: false,
        }
    }

    /// The error of a write. Without its reader, a pipe is broken and a terminal has hung up;
    /// anything else is worth a note.
    fn failed(&self, errno: Errno) -> io::Error {
        let is_gone = match errno {
            Errno::PIPE => true,
            Errno::IO => isatty(&self.out),
            _ => false,
        };
        if is_gone {
            return io::ErrorKind::BrokenPipe.into();
        }
        let error = io::Error::from(errno);
        self.notes
            .add(format!("the console cannot be written: {error}"));
        error
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if is_writable(self.out.as_fd(), PERIOD)? {
                match rustix::io::write(&self.out, &bytes[..bytes.len().min(MOST)]) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(errno) => return Err(self.failed(errno)),
                    Ok(written) => return Ok(written),
                }
            }
            if self.end.is_over() {
                if !std::mem::replace(&mut self.is_lost, true) {
                    let lost = "the end of what the guest wrote is lost: no one reads the console";
                    self.notes.add(lost.into());
                }
                return Ok(bytes.len());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a message of the VMM as far as the output takes it within `limit`. Returns whether
/// that was all of it.
pub fn write_within(out: impl AsFd, text: &str, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if !is_writable(out.as_fd(), left).unwrap_or(false) {
            return false;
        }
        match rustix::io::write(&out, &rest[..rest.len().min(MOST)]) {
            Err(Errno::AGAIN | Errno::INTR) if !left.is_zero() => {}
            Err(_) => return false,
            Ok(written) => rest = &rest[written..],
        }
    }
    true
}

/// Waits until a write does not block, or fails at once.
fn is_writable(out: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::thread;

    use rustix::fs::{OFlags, fcntl_setfl};
    use rustix::pipe::{fcntl_setpipe_size, pipe};

    use super::*;
    use crate::boot::outcome::Outcome;

    /// A pipe of a page, and a console that writes to it.
    fn console() -> (File, Console, End, Notes) {
        let (reader, out) = pipe().unwrap();
        fcntl_setpipe_size(&out, 4096).unwrap();
        let (end, notes) = (End::default(), Notes::default());
        let console = Console::new(out, end.clone(), notes.clone());
        (reader.into(), console, end, notes)
    }

    /// More than a pipe takes.
    fn text() -> Vec<u8> {
        (0..20_000_u32).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn a_slow_reader_gets_every_byte_whether_the_output_blocks_or_not() {
        for flags in [OFlags::empty(), OFlags::NONBLOCK] {
            let (mut reader, mut console, _end, notes) = console();
            fcntl_setfl(&console.out, flags).unwrap();
            let writer = thread::spawn(move || console.write_all(&text()).unwrap());
            thread::sleep(Duration::from_millis(20));
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            writer.join().unwrap();
            assert!(read == text(), "{} bytes", read.len());
            assert_eq!(notes.list(), [""; 0]);
        }
    }

    #[test]
    fn a_write_that_no_one_takes_ends_with_the_guest_and_is_noted_once() {
        let (_reader, mut console, end, notes) = console();
        let writer = thread::spawn(move || {
            console.write_all(&text()).unwrap();
            console.write_all(&text()).unwrap();
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!writer.is_finished());
        end.report(Outcome::Left);
        writer.join().unwrap();
        let lost = "the end of what the guest wrote is lost: no one reads the console";
        assert_eq!(notes.list(), [lost]);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_fault_and_a_full_disk_is_noted() {
        let (reader, mut console, _end, notes) = console();
        drop(reader);
        let error = console.write_all(b"a").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(notes.list(), [""; 0]);

        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut console = Console::new(full.into(), End::default(), notes.clone());
        console.write_all(b"a").unwrap_err();
        let list = notes.list();
        assert!(
            list[0].starts_with("the console cannot be written: No space"),
            "{list:?}"
        );
    }

    #[test]
    fn a_message_is_given_up_when_no_one_takes_it() {
        let (mut reader, console, ..) = console();
        assert!(write_within(&console.out, "help", Duration::ZERO));
        let text = "x".repeat(20_000);
        assert!(!write_within(
            &console.out,
            &text,
            Duration::from_millis(20)
        ));
        assert!(!write_within(&console.out, &text, Duration::ZERO));
        let mut read = [0; 4];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"help");
    }
}
