// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Converts the pages of a TDISP report to offsets in BARs.

use alloc::vec::Vec;
use core::fmt;

use guest_ranges::AddrRange;
use thiserror::Error;

use crate::bar::{Bar, BarIndex, BarKind};
use crate::bar_input::{ReportedRange, TeeKind};
use crate::msix::MsixParts;
use crate::report::{InterfaceReport, MmioRange};

/// The unit of a report, whatever the host's pages are.
const REPORT_PAGE: u64 = 0x1000;

/// How a reported page is converted to an offset in its BAR.
///
/// The host gives the device a reporting offset when it locks the interface, and the device adds it
/// to every address it reports. The report does not contain that offset. Consumers undo it in one of
/// two ways, neither of which is always right. The specification does not decide between them, so the
/// caller does. The crate `bar-report` adds a note if the other rule fits too, with another result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a caller that compares the rules has to know all of them.
pub enum OffsetRule {
    /// Counted from the lowest page with the same range ID. Right if the first page of the BAR is
    /// reported, whatever the reporting offset.
    Relative,
    /// The address modulo the size of the BAR. Right if the reporting offset is a multiple of that,
    /// whatever pages are reported.
    Masked,
}

/// A range that does not fit the BAR it names. The whole report is then refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A range ID from 0 to 5 that is not the number of a BAR of the device.
    #[error("range {n} of the report has ID {id}, and the device has no such BAR")]
    NoSuchBar {
        /// The number of the range, from 0.
        n: usize,
        /// Its ID.
        id: u16,
    },
    /// A range for an I/O BAR. A report is about memory only.
    #[error("range {n} of the report has ID {}, and that is an I/O BAR", bar.get())]
    IoBar {
        /// The number of the range, from 0.
        n: usize,
        /// The BAR.
        bar: BarIndex,
    },
    /// A range that ends past its BAR, by the rule that was asked for.
    #[error(
        "range {n} of the report: {pages:#x} pages of 4 KiB at offset {offset:#x} leave \
         the {bar_size:#x} bytes of {bar}"
    )]
    OutsideBar {
        /// The number of the range, from 0.
        n: usize,
        /// The BAR.
        bar: BarIndex,
        /// Size of the BAR in bytes.
        bar_size: u64,
        /// Where the range would start in the BAR, in bytes.
        offset: u64,
        /// How many pages it has.
        pages: u32,
    },
}

/// A range of the report that is in no BAR, by its range ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LeftOut {
    /// The number of the range, from 0.
    pub n: usize,
    /// The range.
    pub range: MmioRange,
}

/// For example `range 3 has ID 8, a group of the device's own`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.range.id();
        let what = match id {
            6 => "which stands for what is behind a bridge",
            7 => "which stands for memory without a BAR",
            _ => "a group of the device's own",
        };
        write!(f, "range {} has ID {id}, {what}", self.n)?;
        match self.range.msix() {
            MsixParts::NONE => Ok(()),
            msix => write!(f, ", and is marked to hold the {msix}"),
        }
    }
}

/// A report whose ranges have been placed in the BARs of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacedReport {
    ranges: [Vec<ReportedRange>; BarIndex::COUNT as usize],
    left_out: Vec<LeftOut>,
}

impl PlacedReport {
    /// The ranges of one BAR, for [`BarInput::report`](crate::BarInput::report). Empty if the
    /// report does not mention the BAR.
    pub fn of(&self, bar: BarIndex) -> &[ReportedRange] {
        let ranges = self.ranges.get(usize::from(bar.get()));
        ranges.map(Vec::as_slice).unwrap_or_default()
    }

    /// The ranges whose ID is not a BAR number, in the order of the report. If such a range is in a
    /// BAR nevertheless, its bytes count as not reported.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

impl InterfaceReport {
    /// Places every range in the BAR that its range ID names, by `rule`.
    ///
    /// IDs 0 to 5 are BAR numbers. The specification reserves 6 and 7 too: as BAR equivalent
    /// indicators (BEI) they mean resources behind a bridge, and memory without a BAR. Higher IDs are
    /// the device's own. Ranges with an ID from 6 on are [left out](PlacedReport::left_out).
    ///
    /// `bars` are all BARs of the device. A wrong rule mostly gives ranges that leave their BAR,
    /// but not always; [`classify`](crate::classify) also refuses a range that is marked to hold an
    /// MSI-X structure and does not.
    ///
    /// # Errors
    ///
    /// [`PlaceError`] for the first range that does not fit. Nothing of the report is used then.
    pub fn place(&self, bars: &[Bar], rule: OffsetRule) -> Result<PlacedReport, PlaceError> {
        let mut lowest = [u64::MAX; BarIndex::COUNT as usize];
        for range in &self.ranges {
            if let Some(lowest) = lowest.get_mut(usize::from(range.id())) {
                *lowest = range.first_page.min(*lowest);
            }
        }
        let mut placed = PlacedReport::default();
        for (n, range) in self.ranges.iter().enumerate() {
            let id = range.id();
            if id >= BarIndex::COUNT.into() {
                placed.left_out.push(LeftOut { n, range: *range });
                continue;
            }
            let named = |bar: &&Bar| u16::from(bar.index().get()) == id;
            let slot = usize::from(id);
            let ((Some(bar), Some(ranges)), Some(&lowest)) = (
                (bars.iter().find(named), placed.ranges.get_mut(slot)),
                lowest.get(slot),
            ) else {
                return Err(PlaceError::NoSuchBar { n, id });
            };
            let offset = match rule {
                OffsetRule::Relative => (range.first_page - lowest).saturating_mul(REPORT_PAGE),
                // Pages are below 2^52, and a size is a power of two.
                OffsetRule::Masked => (range.first_page * REPORT_PAGE) & (bar.size() - 1),
            };
            ranges.push(place_range(n, *range, *bar, offset)?);
        }
        Ok(placed)
    }
}

fn place_range(
    n: usize,
    range: MmioRange,
    bar: Bar,
    offset: u64,
) -> Result<ReportedRange, PlaceError> {
    if bar.kind() == BarKind::Io {
        return Err(PlaceError::IoBar {
            n,
            bar: bar.index(),
        });
    }
    let kind = match range.is_non_tee() {
        true => TeeKind::NonTee,
        false => TeeKind::Tee,
    };
    let bytes = u128::from(range.pages) * u128::from(REPORT_PAGE);
    match AddrRange::new(offset, bytes) {
        Some(placed) if bar.extent().covers(placed) => Ok(ReportedRange {
            range: placed,
            kind,
            msix: range.msix(),
        }),
        _ => Err(PlaceError::OutsideBar {
            n,
            bar: bar.index(),
            bar_size: bar.size(),
            offset,
            pages: range.pages,
        }),
    }
}
