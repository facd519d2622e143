// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the trees of a dump, without interpreting them.

pub(crate) mod dump;
pub(crate) mod line;
pub(crate) mod other_output;
mod parser;
mod paste;

use dump::Dump;

use crate::error::Fault;

/// Parses a dump.
pub(crate) fn parse(text: &str) -> Result<Dump, Fault> {
    short_lines(text)?;
    parser::parse(text)
}

/// The largest text that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 8 << 20;
/// The longest line of a region or heading, in bytes. Real lines have about
/// 150.
const MAX_LINE: usize = 1000;

/// Rejects long names, because later steps copy names many times.
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
