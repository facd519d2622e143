// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From text to the trees that it draws, without knowing what they mean.

pub(crate) mod dump;
pub(crate) mod line;
pub(crate) mod other_output;
mod parser;
mod paste;

use dump::Dump;

use crate::error::Fault;

/// Reads a dump.
pub(crate) fn parse(text: &str) -> Result<Dump, Fault> {
    short_lines(text)?;
    parser::parse(text)
}

/// The most bytes of text that are read.
pub(crate) const MAX_BYTES: usize = 8 << 20;
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
