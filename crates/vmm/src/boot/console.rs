// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's console: a file that may take output slower than the guest writes it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::isatty;

use super::notes::Notes;
use super::outcome::End;

/// How long one wait for room takes at most. The end of the guest is seen between two.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
const NO_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A writer to a pipe, a terminal or another file. While the file takes no output, a
/// write waits, whether the file blocks or not. The wait ends with the guest; the output is
/// then lost, which is noted. The error of a reader that has gone is
/// [`ErrorKind::BrokenPipe`].
#[derive(Debug)]
pub struct Console {
    out: File,
    is_terminal: bool,
    end: End,
    notes: Notes,
    has_lost: bool,
}

impl Console {
    /// The console of the guest that ends at `end`.
    pub fn new(out: OwnedFd, end: End, notes: Notes) -> Self {
        Self {
            is_terminal: isatty(&out),
            out: out.into(),
            end,
            notes,
            has_lost: false,
        }
    }

    /// Waits until the file takes output. Returns `false` if the guest ends before that.
    fn wait_for_room(&self) -> io::Result<bool> {
        loop {
            let is_over = self.end.is_over();
            let timeout = if is_over { &NO_WAIT } else { &WAIT };
            let room = &mut [PollFd::new(&self.out, PollFlags::OUT)];
            match poll(room, Some(timeout)) {
                Ok(0) if is_over => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A terminal that has hung up is a reader that has gone.
    fn decode(&self, error: io::Error) -> io::Error {
        match Errno::from_io_error(&error) {
            Some(Errno::IO) if self.is_terminal => ErrorKind::BrokenPipe.into(),
            _ => error,
        }
    }

    fn lose(&mut self, bytes: &[u8]) -> usize {
        if !std::mem::replace(&mut self.has_lost, true) {
            let note = "the console took no output when the guest ended: its last output is lost";
            self.notes.add(note.into());
        }
        bytes.len()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A pipe that polls as writable takes this much without blocking.
        let bytes = &bytes[..bytes.len().min(libc::PIPE_BUF)];
        loop {
            if !self.wait_for_room()? {
                return Ok(self.lose(bytes));
            }
            match self.out.write(bytes) {
                // Another writer was faster.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.end.is_over() {
                        return Ok(self.lose(bytes));
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                result => return result.map_err(|error| self.decode(error)),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::super::outcome::Outcome;
    use super::*;

    /// A console on a full pipe, and the pipe's other end with the number of bytes in it.
    fn full(flags: PipeFlags, end: &End, notes: &Notes) -> (Console, File, usize) {
        let (reader, writer) = pipe_with(flags).unwrap();
        let size = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        let console = Console::new(writer, end.clone(), notes.clone());
        (&console.out).write_all(&vec![b'.'; size]).unwrap();
        (console, reader.into(), size)
    }

    #[test]
    fn output_waits_for_the_reader_of_a_pipe_that_does_not_block() {
        for flags in [PipeFlags::NONBLOCK, PipeFlags::empty()] {
            let (end, notes) = (End::default(), Notes::default());
            let (mut console, mut reader, size) = full(flags, &end, &notes);
            let writes = thread::spawn(move || console.write_all(b"x"));
            thread::sleep(Duration::from_millis(20));
            assert!(!writes.is_finished());
            let mut read = vec![0; size];
            reader.read_exact(&mut read).unwrap();
            writes.join().unwrap().unwrap();
            assert_eq!(reader.read(&mut read).unwrap(), 1);
            assert_eq!(read[0], b'x');
            assert_eq!(notes.list(), [""; 0]);
        }
    }

    #[test]
    fn a_terminal_that_hangs_up_is_a_broken_pipe_and_a_full_disk_is_not() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let user = openpt(flags).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let terminal = ioctl_tiocgptpeer(&user, flags).unwrap();
        let mut console = Console::new(terminal, End::default(), Notes::default());
        drop(user);
        let error = console.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);

        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut console = Console::new(full.into(), End::default(), Notes::default());
        let error = console.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn the_end_of_the_guest_ends_the_wait_and_lost_output_is_noted_once() {
        for flags in [PipeFlags::NONBLOCK, PipeFlags::empty()] {
            let (end, notes) = (End::default(), Notes::default());
            let (mut console, _reader, _) = full(flags, &end, &notes);
            let writes = thread::spawn(move || {
                console.write_all(b"x").unwrap();
                console.write_all(b"y").unwrap();
            });
            thread::sleep(Duration::from_millis(20));
            assert!(!writes.is_finished());
            end.report(Outcome::Left);
            writes.join().unwrap();
            assert_eq!(notes.list().len(), 1, "{:?}", notes.list());
        }
    }
}
