// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the hex dump of configuration space that `lspci -x` to `-xxxx` print.

use crate::error::Fault;

/// The number of bytes in a line.
const WIDTH: usize = 16;
/// The size of configuration space.
const MAX_LEN: usize = 4096;

/// The size of the header, which precedes the capabilities.
const HEADER: usize = 64;

/// A dump, as far as it has been read.
#[derive(Debug)]
pub(super) struct Dump {
    /// The line where the dump starts.
    pub(super) line: usize,
    pub(super) bytes: Vec<u8>,
}

/// Returns the offset of a line of a dump, and its bytes as text. Returns
/// `None` for any other line.
pub(super) fn line_of_dump(text: &str) -> Option<(usize, &str)> {
    let (offset, bytes) = text.split_once(": ")?;
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let first = bytes.split_whitespace().next()?;
    if !(2..=3).contains(&offset.len()) || !is_hex(offset) || first.len() != 2 || !is_hex(first) {
        return None;
    }
    Some((usize::from_str_radix(offset, 16).ok()?, bytes))
}

impl Dump {
    /// Returns whether the dump has only the header, without the capabilities.
    pub(super) fn is_header(&self) -> bool {
        self.bytes.len() <= HEADER
    }

    /// Adds a line to a dump. The first line starts the dump.
    pub(super) fn read(
        dump: &mut Option<Self>,
        line: usize,
        offset: usize,
        text: &str,
    ) -> Result<(), Fault> {
        let dump = dump.get_or_insert_with(|| Self {
            line,
            bytes: Vec::new(),
        });
        let expected = dump.bytes.len();
        if offset == 0 && expected > 0 {
            let what = format!(
                "a second hex dump of the same device; the first starts in line {}",
                dump.line
            );
            return Err(Fault::at(line, what));
        }
        if offset != expected || expected >= MAX_LEN {
            let what = format!("the hex dump goes on at {offset:02x}, not at {expected:02x}");
            return Err(Fault::at(line, what));
        }
        let bytes: Option<Vec<u8>> = text.split_whitespace().take(WIDTH + 1).map(byte).collect();
        match bytes {
            Some(bytes) if bytes.len() == WIDTH => dump.bytes.extend(bytes),
            _ => {
                let what = "a line of a hex dump has 16 bytes of two hexadecimal digits each";
                return Err(Fault::at(line, what));
            }
        }
        Ok(())
    }
}

fn byte(text: &str) -> Option<u8> {
    let is_byte = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(text, 16).ok())?
}
