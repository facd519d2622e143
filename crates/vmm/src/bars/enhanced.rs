// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Enhanced Allocation capability as `lspci` prints it. It fixes the places
//! of BARs whose registers may then be 0, so that only the kernel knows them.

use super::device::BarFact;
use super::error::Fault;

/// The entries of the capability.
#[derive(Debug)]
pub(super) struct Enhanced {
    line: usize,
    /// How many there are; `None` if that was not understood.
    entries: Option<usize>,
    /// What each of those shown is for, in `lspci`'s words.
    shown: Vec<String>,
}

impl Enhanced {
    /// The capability in `line`; `text` begins with `NumEntries=`.
    pub(super) fn new(line: usize, text: &str) -> Self {
        let number = text.strip_prefix("NumEntries=").map(|number| {
            let end = number.find(|c: char| !c.is_ascii_digit());
            &number[..end.unwrap_or(number.len())]
        });
        Self {
            line,
            entries: number.and_then(|number| number.parse().ok()),
            shown: Vec::new(),
        }
    }

    /// A line below the capability's own.
    pub(super) fn line(&mut self, text: &str) {
        // The number has six bits.
        if let (Some(what), 0..64) = (text.strip_prefix(INDICATOR), self.shown.len()) {
            self.shown.push(what.to_string());
        }
    }

    /// That each BAR with an entry is among `bars`, with its size.
    pub(super) fn check(&self, bars: &[BarFact]) -> Result<(), Fault> {
        let is_sized = |number: &str| {
            let same = |bar: &&BarFact| number == bar.index.get().to_string();
            bars.iter().find(same).is_some_and(|bar| bar.size.is_some())
        };
        let is_known = |what: &String| match what.strip_prefix("BAR ") {
            Some(number) => is_sized(number),
            None => OTHERS.iter().any(|other| what.starts_with(other)),
        };
        match self.entries == Some(self.shown.len()) && self.shown.iter().all(is_known) {
            true => Ok(()),
            false => {
                let what = "BARs are placed by Enhanced Allocation, and the text does not list \
                            all of them as `Region N: … [size=…]`: give the bytes of configuration \
                            space (/sys/bus/pci/devices/…/config) as --config";
                Err(Fault::at(self.line, what))
            }
        }
    }
}

const INDICATOR: &str = "BAR Equivalent Indicator: ";
/// Entries for what is no BAR of the device.
const OTHERS: [&str; 4] = [
    "resource behind function",
    "not indicated",
    "expansion ROM",
    "VF-BAR ",
];
