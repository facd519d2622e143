// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads dumps from text or from a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::build::build;
use crate::error::{DumpError, Fault, FileError};
use crate::machine::{CutOff, Machine};
use crate::parse::other_output::open_end;
use crate::parse::{MAX_BYTES, parse};

/// Reads the dump in `text`. Errors call it `file`.
///
/// # Errors
/// Returns the line that cannot be read or rendered, and what was expected
/// there.
pub fn read(file: &str, text: &str) -> Result<Machine, DumpError> {
    let machine = parse(text).and_then(|dump| build(&dump));
    let mut machine = machine.map_err(|fault| fault.in_file(file))?;
    machine.cut_off = open_end(text).map(|line| CutOff {
        file: file.to_string(),
        line,
    });
    Ok(machine)
}

/// Reads the dump in a file of up to 8 MiB.
///
/// # Errors
/// Fails if the file cannot be read, is too large, is not UTF-8, or is not a
/// dump.
pub fn read_file(path: &Path) -> Result<Machine, FileError> {
    let file = path.display().to_string();
    let read_bytes = || {
        let mut bytes = Vec::new();
        let limit = MAX_BYTES as u64 + 1;
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read_bytes().map_err(|source: io::Error| FileError::Io {
        file: file.clone(),
        source,
    })?;
    let line_at = |end: usize| 1 + bytes[..end].iter().filter(|&&byte| byte == b'\n').count();
    if bytes.len() > MAX_BYTES {
        let what = format!("more than {MAX_BYTES} bytes");
        return Err(Fault::new(line_at(bytes.len()), what).in_file(&file).into());
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = line_at(error.valid_up_to());
        Fault::new(line, "not UTF-8; expected text").in_file(&file)
    })?;
    Ok(read(&file, text)?)
}
