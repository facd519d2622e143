// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM's own messages on standard error. No one may be reading it, so nothing waits
//! for it for long.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

/// How many messages wait while no one reads them.
const MOST_WAITING: usize = 8;

/// Messages on standard error, which a thread writes. Clones share the thread.
#[derive(Clone, Debug)]
pub struct Messages(SyncSender<String>);

impl Messages {
    /// Starts the thread.
    ///
    /// # Errors
    /// Standard error has no descriptor, or there is no thread.
    pub fn spawn() -> io::Result<Self> {
        Self::spawn_to(io::stderr().as_fd().try_clone_to_owned()?)
    }

    fn spawn_to(out: OwnedFd) -> io::Result<Self> {
        let (sender, messages) = mpsc::sync_channel::<String>(MOST_WAITING);
        let write = move || {
            let mut out = File::from(out);
            for message in messages {
                let _ = out.write_all(message.as_bytes());
            }
        };
        thread::Builder::new()
            .name("messages".into())
            .spawn(write)?;
        Ok(Self(sender))
    }

    /// Hands over a message, which is dropped if too many wait. Never blocks.
    pub fn post(&self, message: String) {
        let _ = self.0.try_send(message);
    }
}

/// Writes `text` to `out`. Gives up after `timeout`: a thread then still waits, until the
/// process ends. Returns whether all was written.
///
/// `out` is not [`io::stderr`], whose lock the waiting thread would hold.
pub fn write_within(out: OwnedFd, text: String, timeout: Duration) -> bool {
    let (sender, written) = mpsc::channel();
    let write = move || {
        let result = File::from(out).write_all(text.as_bytes());
        // No one receives it after the timeout.
        let _ = sender.send(result.is_ok());
    };
    let thread = thread::Builder::new().name("messages".into()).spawn(write);
    thread.is_ok() && written.recv_timeout(timeout).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::pipe::{fcntl_getpipe_size, pipe};

    use super::*;

    #[test]
    fn messages_that_no_one_reads_do_not_block_the_sender() {
        let (reader, writer) = pipe().unwrap();
        let messages = Messages::spawn_to(writer).unwrap();
        let long = "x".repeat(1 << 20);
        (0..2 * MOST_WAITING).for_each(|_| messages.post(long.clone()));
        // What was kept is written once someone reads.
        let mut read = vec![0; long.len()];
        File::from(reader).read_exact(&mut read).unwrap();
        assert_eq!(read, long.as_bytes());
    }

    #[test]
    fn a_message_is_written_or_given_up() {
        let (reader, writer) = pipe().unwrap();
        let size = fcntl_getpipe_size(&writer).unwrap();
        let second = writer.try_clone().unwrap();
        let message = "left\n".to_string();
        assert!(write_within(
            writer,
            message.clone(),
            Duration::from_secs(20)
        ));
        let mut read = [0; 16];
        let count = File::from(reader.try_clone().unwrap())
            .read(&mut read)
            .unwrap();
        assert_eq!(&read[..count], message.as_bytes());

        File::from(second.try_clone().unwrap())
            .write_all(&vec![b'.'; size])
            .unwrap();
        assert!(!write_within(second, message, Duration::from_millis(20)));
    }
}
