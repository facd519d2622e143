// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Signs that another device begins in the middle of a listing, whose first line
//! is missing or was not understood.

use crate::bdf::Bdf;
use crate::error::Fault;
use crate::sources::lspci::first_line;
use crate::sources::lspci::hexdump::line_of_dump;
use crate::sources::lspci::statement::statements;

/// What a listing says where a second device begins in it.
pub(super) const NO_HEADER: &str = "a second device begins here, but its first line is missing";

/// Where another device seems to begin. No statement may follow.
#[derive(Debug, Default)]
pub(super) struct OtherDevice(Option<Sign>);

/// A line that is not of the listing's device.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// It has the address of another.
    Address(usize),
    /// `lspci` prints it in front of the BARs, or behind the capabilities, and it was elsewhere.
    Order(usize),
}

/// What the lines begin with that `lspci` prints in front of a device's BARs.
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
    /// That a statement does not follow the beginning of another device.
    pub(super) fn check(&self, line: usize, text: &str) -> Result<(), Fault> {
        let is_dump = line_of_dump(text).is_some();
        let what = match self.0 {
            Some(Sign::Address(start)) if is_dump || statements(text) > 0 => format!(
                "line {start} has the address of a device: does this belong to it? Remove what is \
                 in front of the address, or the line"
            ),
            // A dump comes behind all other lines of its device.
            Some(Sign::Order(start)) if !is_dump && statements(text) > 0 => {
                format!("{NO_HEADER} (line {start} is of it or of the other)")
            }
            _ => return Ok(()),
        };
        Err(Fault::at(line, what))
    }

    /// Looks at a line of the listing of `device` that was not read. `is_begun` says whether
    /// the listing has begun, and `is_late` whether it is past what comes in front of BARs.
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
            // Whose listing a text without a first line is, nothing in front of it says.
            Some(_) if is_begun => Some(Sign::Address(line)),
            _ => (is_early && is_late).then_some(Sign::Order(line)),
        };
        self.0 = self.0.or(sign);
    }

    /// Looks at a line that `lspci` prints behind the capabilities.
    pub(super) fn note_end(&mut self, line: usize) {
        self.0.get_or_insert(Sign::Order(line));
    }
}
