// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the line of the MSI-X capability, and the lines below it with the places of its
//! structures.

use std::str::FromStr;

use vfio_private::BarIndex;

use crate::error::Fault;

/// The capability, while the lines below it are being read.
#[derive(Debug)]
pub(super) struct OpenMsix {
    pub(super) line: usize,
    pub(super) vectors: u16,
    pub(super) table: Option<(BarIndex, u64)>,
    pub(super) pba: Option<(BarIndex, u64)>,
}

impl OpenMsix {
    /// Parses the text after `MSI-X: `; `None` if it has no number of vectors.
    pub(super) fn new(line: usize, text: &str) -> Option<Self> {
        // Before 2010 the field was called `TabSize` and came last.
        let vectors = match value(text, "Count=") {
            Some(count) if text.contains(" Masked") => count,
            Some(_) => return None,
            None => value(text, "TabSize=")?,
        };
        Some(Self {
            line,
            vectors: decimal(vectors)?,
            table: None,
            pba: None,
        })
    }
}

/// Parses the text after `Vector table: ` or `PBA: `: a BAR, and an offset in it.
pub(super) fn place(line: usize, text: &str) -> Result<(BarIndex, u64), Fault> {
    let expected = "a BAR and a hexadecimal offset as in `BAR=0 offset=00002000`";
    let read = || {
        let bar = decimal(value(text, "BAR=")?)?;
        let offset = value(text, "offset=")?;
        // With fewer digits, the line is cut off.
        let is_whole = offset.len() == 8 && offset.bytes().all(|c| c.is_ascii_hexdigit());
        let offset = u64::from_str_radix(offset, 16).ok()?;
        is_whole.then_some((bar, offset))
    };
    let (bar, offset) = read().ok_or_else(|| Fault::not_understood(line, text, expected))?;
    let bar = BarIndex::new(bar).map_err(|error| Fault::at(line, error.to_string()))?;
    Ok((bar, offset))
}

/// Returns the rest of the only word that begins with `key`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(key));
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Accepts digits only: `parse` also accepts a sign.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}
