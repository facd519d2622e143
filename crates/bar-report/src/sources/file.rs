// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads files of any size up to a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::BarReportError;

/// The largest TDISP report, and the largest list of regions.
pub(super) const MAX_LIST: u64 = 1 << 20;

/// Reads a file, which may be a pipe, if it has at most `limit` bytes.
pub(super) fn whole(path: &Path, limit: u64) -> Result<Vec<u8>, BarReportError> {
    let file = || path.display().to_string();
    let mut bytes = Vec::new();
    // A file may grow, and a device has no length, so the length is known only
    // after reading.
    let read = File::open(path).and_then(|opened| opened.take(limit + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(BarReportError::Io {
            file: file(),
            source,
        }),
        Ok(_) if bytes.len() as u64 > limit => Err(BarReportError::File {
            file: file(),
            what: format!("it is larger than {} MiB", limit >> 20),
        }),
        Ok(_) => Ok(bytes),
    }
}

/// Returns the first byte that `lspci` does not print, and its line. The bytes
/// may then be configuration space.
///
/// Text has no NUL bytes. Configuration space of a device that answers has
/// some, because reserved bytes of the header are 0. Bytes of all ones are not
/// text either. Names of devices may be in any encoding, so UTF-8 is not
/// required.
pub(super) fn not_of_text(bytes: &[u8]) -> Option<(usize, u8)> {
    let is_control = |byte: &u8| *byte < b' ' && !b"\t\n\r\x0b\x0c\x1b".contains(byte);
    let is_blank = bytes.iter().all(|&byte| byte == 0xff);
    let at = match bytes.iter().position(is_control) {
        None => is_blank.then_some(0)?,
        Some(at) => at,
    };
    let before = bytes.get(..at)?;
    let ends = before.iter().filter(|&&byte| byte == b'\n').count();
    Some((1 + ends, *bytes.get(at)?))
}
