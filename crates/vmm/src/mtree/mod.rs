// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's memory maps: what `info mtree -D` prints is read, put together as a
//! [`MemoryModel`](memory_model::MemoryModel), rendered, and printed as
//! `info mtree -f` would.
//!
//! So QEMU's own listings of a machine, taken at one moment, check the model's
//! rendering against QEMU's. The steps, each in a file of its own: `paste`, `line`
//! and `parse` (text to trees), `identity` (which drawings are one region),
//! `resolve` and `windows` (which region an alias shows), `rules` (what the text
//! does not say), `plan` and `cycles` (which regions the model gets), `import`
//! (trees to the model), `roots` (which address spaces share a view), `work` (a
//! bound on rendering), `flat` (views to text).
//!
//! Nothing is mapped: the memory's host addresses are made up.

mod cycles;
mod error;
mod flat;
mod identity;
mod import;
mod line;
mod parse;
mod paste;
mod plan;
mod resolve;
mod roots;
mod rules;
mod windows;
mod work;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use error::Fault;
pub use error::MtreeError;
pub use import::{Imported, Shown, ShownBy, View};
pub use line::Type;

/// Reads the dump in `text`, which errors call `file`.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn read(file: &str, text: &str) -> Result<Imported, MtreeError> {
    let dump = short_lines(text).and_then(|()| parse::parse(text));
    let machine = dump.and_then(|dump| import::import(&dump));
    machine.map_err(|fault| fault.in_file(file))
}

/// The longest line of a region or heading, in bytes; real ones have about 150.
const MAX_LINE: usize = 1000;

/// Checks that no name is too long to be handled many times.
fn short_lines(text: &str) -> Result<(), Fault> {
    let is_read = |line: &str| {
        let starts = [" ", "address-space: ", "memory-region: "];
        starts.iter().any(|start| line.starts_with(start))
    };
    let mut lines = text.lines().enumerate();
    let long = lines.find(|(_, line)| line.len() > MAX_LINE && is_read(line));
    long.map_or(Ok(()), |(number, line)| {
        let what = format!("{} bytes; expected at most {MAX_LINE}", line.len());
        Err(Fault::new(number + 1, what))
    })
}

/// All flat views of a machine, as `info mtree -f` prints them.
pub fn flat(machine: &Imported) -> String {
    flat::text(machine)
}

/// Why a file could not be turned into flat views.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It could not be read.
    #[error("{file}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is no dump.
    #[error(transparent)]
    Dump(#[from] MtreeError),
}

/// The flat views of the dump in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatFile {
    /// As `info mtree -f` prints them.
    pub text: String,
    /// A note on what may be missing from the dump, and where.
    pub note: Option<String>,
}

/// Reads the dump in a file and renders its flat views.
///
/// # Errors
/// If the file cannot be read, is too large, is no text or is no dump.
pub fn flat_of_file(path: &Path) -> Result<FlatFile, FileError> {
    let file = path.display().to_string();
    let read_bytes = || {
        let mut bytes = Vec::new();
        let limit = parse::MAX_BYTES as u64 + 1;
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read_bytes().map_err(|source| FileError::Io {
        file: file.clone(),
        source,
    })?;
    let line_at = |end: usize| 1 + bytes[..end].iter().filter(|&&byte| byte == b'\n').count();
    if bytes.len() > parse::MAX_BYTES {
        let what = format!("more than {} bytes", parse::MAX_BYTES);
        return Err(Fault::new(line_at(bytes.len()), what).in_file(&file).into());
    }
    let text = str::from_utf8(&bytes).map_err(|error| {
        let line = line_at(error.valid_up_to());
        Fault::new(line, "not UTF-8; expected text").in_file(&file)
    })?;
    let note = |line: usize| {
        format!(
            "{file}:{line}: QEMU prints an empty line behind the last tree: the dump may have been \
             cut off here, and regions may be missing"
        )
    };
    Ok(FlatFile {
        text: flat(&read(&file, text)?),
        note: parse::open_end(text).map(note),
    })
}
