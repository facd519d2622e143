// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads what the kernel logs while a program runs.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

const PATH: &str = "/dev/kmsg";

/// The kernel's log, from the moment of opening it.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// Opens the log at its end.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open() -> Result<Self, String> {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let opened = options.open(PATH).and_then(|mut file| {
            file.seek(SeekFrom::End(0))?;
            Ok(Self(file))
        });
        opened.map_err(|e| format!("{PATH}: {e}"))
    }

    /// The messages since the last call, one a line.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn news(&mut self) -> Result<String, String> {
        // The kernel returns one whole record for each read.
        let mut record = [0; 8192];
        let mut text = String::new();
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(text),
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    text += message(&record);
                    text.push('\n');
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(text),
                // Older records were overwritten. The next read has the oldest.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the kernel's log: {error}")),
            }
        }
    }
}

/// Whether messages are read once, and only those since the opening.
///
/// # Errors
/// One is missing, or an older one is read. The log may not be writable.
pub fn reads_news_only() -> Result<(), String> {
    let say = |text: &str| {
        let written = fs::write(PATH, format!("hw-tests: {text}\n"));
        written.map_err(|e| format!("{PATH}: {e}"))
    };
    say("before the opening")?;
    let mut log = KernelLog::open()?;
    say("after the opening")?;
    let first = log.news()?;
    let second = log.news()?;
    let is_as_due = first.contains("hw-tests: after the opening\n")
        && !first.contains("before the opening")
        && !second.contains("hw-tests:");
    match is_as_due {
        true => Ok(()),
        false => Err(format!("read {first:?}, then {second:?}")),
    }
}

/// The message of a record: what is between the first semicolon and the end of
/// the line. Further lines describe the device.
fn message(record: &str) -> &str {
    let line = record.lines().next().unwrap_or_default();
    line.split_once(';').map_or(line, |(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_without_its_numbers_and_its_device() {
        let record = "4,1234,5678,-;WARNING: it; again\n SUBSYSTEM=pci\n DEVICE=+pci:0\n";
        assert_eq!(message(record), "WARNING: it; again");
        assert_eq!(message("no record"), "no record");
        assert_eq!(message(""), "");
    }
}
