// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Detects that another device begins in the middle of a listing, if its first line is missing or
//! was not understood.

use crate::bdf::Bdf;
use crate::error::Fault;
use crate::sources::lspci::first_line;
use crate::sources::lspci::hexdump::line_of_dump;
use crate::sources::lspci::statement::statements;

/// The message for a second device in a listing.
pub(super) const NO_HEADER: &str = "a second device begins here, but its first line is missing";

/// The line where another device seems to begin. No statement may follow.
#[derive(Debug, Default)]
pub(super) struct OtherDevice(Option<Sign>);

/// A line that does not belong to the device of the listing.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// The line has the address of another device.
    Address(usize),
    /// `lspci` prints such a line before the BARs or after the capabilities, but it is in another
    /// place.
    Order(usize),
}

/// The beginnings of the lines that `lspci` prints before a device's BARs.
const EARLY: [&str; 7] = [
    "Subsystem: ",
    "DeviceName: ",
    "Physical Slot: ",
    "Latency: ",
    "Interrupt: pin ",
    "NUMA node: ",
    "IOMMU group: ",
];

impl OtherDevice {
    /// Checks that no statement follows the beginning of another device.
    pub(super) fn check(&self, line: usize, text: &str) -> Result<(), Fault> {
        let is_dump = line_of_dump(text).is_some();
        let what = match self.0 {
            Some(Sign::Address(start)) if is_dump || statements(text) > 0 => format!(
                "line {start} has the address of a device: does this belong to it? Remove what is \
                 in front of the address, or the line"
            ),
            // A dump follows all other lines of its device.
            Some(Sign::Order(start)) if !is_dump && statements(text) > 0 => {
                format!("{NO_HEADER} (line {start} is of it or of the other)")
            }
            _ => return Ok(()),
        };
        Err(Fault::at(line, what))
    }

    /// Checks an unparsed line of the listing of `device`. `is_begun` states whether the listing
    /// has begun. `is_late` states whether it is past the lines that precede the BARs.
    pub(super) fn note(
        &mut self,
        line: usize,
        text: &str,
        device: Option<Bdf>,
        is_begun: bool,
        is_late: bool,
    ) {
        let is_early = EARLY.iter().any(|start| text.starts_with(start));
        let sign = match first_line::mentioned(text) {
            Some(address) if Some(address) == device => None,
            // In a text without a first line, no preceding line names the device.
            Some(_) if is_begun => Some(Sign::Address(line)),
            _ => (is_early && is_late).then_some(Sign::Order(line)),
        };
        self.0 = self.0.or(sign);
    }

    /// Checks a line that `lspci` prints after the capabilities.
    pub(super) fn note_end(&mut self, line: usize) {
        self.0.get_or_insert(Sign::Order(line));
    }
}
