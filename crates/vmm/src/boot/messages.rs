// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM's own messages on standard error. No one may be reading it, so nothing waits
//! for it for long.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Writes `text` to `out`. Gives up after `timeout`: a thread then still waits, until the
/// process ends. Returns whether all was written.
///
/// `out` is not [`io::stderr`](std::io::stderr), whose lock the waiting thread would hold.
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
