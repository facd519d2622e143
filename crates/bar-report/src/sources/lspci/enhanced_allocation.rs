// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the Enhanced Allocation capability as `lspci` prints it. The
//! capability sets the addresses of BARs. Their registers may be 0, and `lspci`
//! then prints a BAR only if the kernel knows it.

use crate::error::Fault;
use crate::facts::BarFact;
use crate::quote::quoted;
use crate::wording::Wording;

/// The entries of the capability.
#[derive(Debug)]
pub(super) struct Enhanced {
    line: usize,
    /// The number of entries; `None` if the number was not understood.
    entries: Option<usize>,
    entries_shown: Vec<Entry>,
    /// Whether the current entry is enabled.
    is_enabled: bool,
}

/// The fields of an entry that are needed.
#[derive(Debug)]
struct Entry {
    line: usize,
    /// The name of its resource, as `lspci` prints it.
    what: String,
    is_enabled: bool,
}

impl Enhanced {
    /// Starts the capability in `line`. `text` begins with `NumEntries=`.
    pub(super) fn new(line: usize, text: &str) -> Self {
        let number = text.strip_prefix("NumEntries=").map(|number| {
            let end = number.find(|c: char| !c.is_ascii_digit());
            &number[..end.unwrap_or(number.len())]
        });
        Self {
            line,
            entries: number.and_then(|number| number.parse().ok()),
            entries_shown: Vec::new(),
            is_enabled: true,
        }
    }

    /// Reads a line below the first line of the capability.
    pub(super) fn line(&mut self, line: usize, text: &str) {
        if text.starts_with("Entry ") {
            self.is_enabled = !text.contains(": Enable- ");
        }
        // The number has six bits.
        if let (Some(what), 0..64) = (text.strip_prefix(INDICATOR), self.entries_shown.len()) {
            self.entries_shown.push(Entry {
                line,
                what: what.to_string(),
                is_enabled: self.is_enabled,
            });
            self.is_enabled = true;
        }
    }

    /// Returns the BARs that the device has but does not decode.
    pub(super) fn left_out<'a>(&'a self, bars: &'a [BarFact]) -> impl Iterator<Item = String> + 'a {
        let is_missing = |entry: &&Entry| {
            let is_bar = |bar: &BarFact| bar.index.to_string() == entry.what;
            let is_own = entry.what.starts_with("BAR ");
            is_own && !entry.is_enabled && !bars.iter().any(is_bar)
        };
        let missing = self.entries_shown.iter().filter(is_missing);
        missing.map(|Entry { line, what, .. }| {
            let what = quoted(what);
            format!("{what}: its Enhanced Allocation entry in line {line} is disabled")
        })
    }

    /// Checks that each BAR with an entry is among `bars`, with its size.
    pub(super) fn check(&self, bars: &[BarFact], wording: &Wording) -> Result<(), Fault> {
        let is_sized = |number: &str| {
            let same = |bar: &&BarFact| number == bar.index.get().to_string();
            bars.iter().find(same).is_some_and(|bar| bar.size.is_some())
        };
        let is_known = |entry: &Entry| match entry.what.strip_prefix("BAR ") {
            Some(number) => is_sized(number) || !entry.is_enabled,
            None => OTHERS.iter().any(|other| entry.what.starts_with(other)),
        };
        match self.entries == Some(self.entries_shown.len())
            && self.entries_shown.iter().all(is_known)
        {
            true => Ok(()),
            false => {
                let what = format!(
                    "BARs are placed by Enhanced Allocation, but the text does not list all of \
                     them as `Region N: … [size=…]`: give the bytes of configuration space \
                     (/sys/bus/pci/devices/…/config){}",
                    wording.as_device
                );
                Err(Fault::at(self.line, what))
            }
        }
    }
}

const INDICATOR: &str = "BAR Equivalent Indicator: ";
/// Entries for resources that are not BARs of the device.
const OTHERS: [&str; 4] = [
    "resource behind function",
    "not indicated",
    "expansion ROM",
    "VF-BAR ",
];
