// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Parses the TDISP `DEVICE_INTERFACE_REPORT`, in which a device describes itself to a confidential guest.
//!
//! PCI Express Base Specification 6.3, section 11.3.11. All numbers are little-endian, and ranges
//! are in pages of 4 KiB, whatever the host's pages are. See [`place`](InterfaceReport::place) for
//! how they become offsets in BARs.

mod placement;

use alloc::vec::Vec;

use thiserror::Error;

pub use placement::{LeftOut, OffsetRule, PlaceError, PlacedReport};

use crate::bytes::{le16, le32, le64};
use crate::msix::MsixParts;

/// Offsets in the fixed part, and its size.
mod fixed {
    pub(super) const INTERFACE_INFO: usize = 0;
    pub(super) const MSIX_CONTROL: usize = 4;
    pub(super) const LNR_CONTROL: usize = 6;
    pub(super) const TPH_CONTROL: usize = 8;
    pub(super) const RANGE_COUNT: usize = 12;
    pub(super) const LEN: usize = 16;
}

/// The size of an MMIO range: first page, number of pages, attributes.
const RANGE: usize = 16;
/// The size of the length in front of the device-specific bytes.
const LENGTH: usize = 4;
/// Some transports carry whole units of 4 bytes, and fill the last one with zeros.
const MAX_PADDING: usize = 3;

/// What is wrong with the bytes of a report. Offsets are from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The bytes end inside the fixed part.
    #[error("{len} bytes are less than the 16 that every report starts with")]
    Short {
        /// How many bytes there were.
        len: usize,
    },
    /// More ranges than there is room for.
    #[error("{count} ranges (offset 0xc) do not fit the {len:#x} bytes of the report")]
    TooManyRanges {
        /// How many ranges the report says it has.
        count: u32,
        /// How many bytes there were.
        len: usize,
    },
    /// The device-specific part, or its length, leaves the report.
    #[error("device-specific part at offset {offset:#x} leaves the {len:#x} bytes of the report")]
    DeviceSpecific {
        /// Where its length is.
        offset: usize,
        /// How many bytes there were.
        len: usize,
    },
    /// Something behind the device-specific part, other than up to 3 zeros.
    #[error("{len:#x} bytes, but the report ends at offset {offset:#x}")]
    TrailingBytes {
        /// Where the report ends.
        offset: usize,
        /// How many bytes there were.
        len: usize,
    },
    /// A range without pages.
    #[error("range {n} at offset {offset:#x} has no pages")]
    EmptyRange {
        /// The number of the range, from 0.
        n: usize,
        /// Where it is in the report.
        offset: usize,
    },
    /// A range with a page whose address does not fit 64 bits.
    #[error("range {n} at offset {offset:#x}: {pages:#x} pages from page {first_page:#x} on wrap")]
    RangeWraps {
        /// The number of the range, from 0.
        n: usize,
        /// Where it is in the report.
        offset: usize,
        /// Its first page.
        first_page: u64,
        /// How many pages it has.
        pages: u32,
    },
}

/// One MMIO range, as reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MmioRange {
    /// The number of the first page of 4 KiB, with the reporting offset added. No one else uses this
    /// address. Below 2^52.
    pub first_page: u64,
    /// How many pages of 4 KiB; at least 1.
    pub pages: u32,
    /// The range's attributes as they are: bits 0 to 3 have the methods below, bits 4 to 15 are
    /// reserved and ignored, bits 16 to 31 are the range ID.
    pub attributes: u32,
}

impl MmioRange {
    /// The MSI-X structures that the device reports to be in the range (bits 0 and 1). It reports them
    /// only if the host locked them together with the interface.
    pub const fn msix(self) -> MsixParts {
        MsixParts {
            table: self.attributes & 1 != 0,
            pba: self.attributes & 2 != 0,
        }
    }

    /// `IS_NON_TEE_MEM` (bit 2): everyone may access the range.
    pub const fn is_non_tee(self) -> bool {
        self.attributes & 4 != 0
    }

    /// `IS_MEM_ATTR_UPDATABLE` (bit 3): the guest may switch the range between TEE and NON_TEE
    /// later. The report has the kind at the time when the interface was locked.
    pub const fn is_updatable(self) -> bool {
        self.attributes & 8 != 0
    }

    /// The range ID: the number of the BAR up to 5, a group of the device's own from 8 on. See
    /// [`place`](InterfaceReport::place).
    pub const fn id(self) -> u16 {
        let [_, _, low, high] = self.attributes.to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

/// A report, read but not yet placed in BARs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceReport {
    /// `INTERFACE_INFO`: bit 0 no firmware update while locked, 1 DMA without PASID, 2 DMA with
    /// PASID, 3 ATS, 4 PRS.
    pub interface_info: u16,
    /// The message control register of the MSI-X capability, or 0.
    pub msix_control: u16,
    /// The LN requester control register, or 0.
    pub lnr_control: u16,
    /// The TPH requester control register, or 0.
    pub tph_control: u32,
    /// The MMIO ranges, in the order of the report.
    pub ranges: Vec<MmioRange>,
    /// What follows them. Its meaning is the device's own.
    pub device_specific: Vec<u8>,
}

impl InterfaceReport {
    /// Parses a whole report. Memory depends on the number of bytes.
    ///
    /// # Errors
    ///
    /// [`ReportError`]: a report is accepted as a whole or not at all.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let len = bytes.len();
        let short = ReportError::Short { len };
        let u16_at = |offset| le16(bytes, offset).ok_or(short);
        let u32_at = |offset| le32(bytes, offset).ok_or(short);
        let count = u32_at(fixed::RANGE_COUNT)?;
        let (ranges, rest) = split_ranges(bytes, count)?;
        Ok(Self {
            interface_info: u16_at(fixed::INTERFACE_INFO)?,
            msix_control: u16_at(fixed::MSIX_CONTROL)?,
            lnr_control: u16_at(fixed::LNR_CONTROL)?,
            tph_control: u32_at(fixed::TPH_CONTROL)?,
            ranges: read_ranges(ranges)?,
            device_specific: device_specific(rest, len)?,
        })
    }
}

/// The bytes of the ranges, and those behind. The count is checked against the bytes before
/// anything is reserved for it.
fn split_ranges(bytes: &[u8], count: u32) -> Result<(&[u8], &[u8]), ReportError> {
    let size = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(RANGE));
    let behind = bytes.get(fixed::LEN..);
    behind
        .zip(size)
        .and_then(|(behind, size)| behind.split_at_checked(size))
        .ok_or(ReportError::TooManyRanges {
            count,
            len: bytes.len(),
        })
}

fn read_ranges(bytes: &[u8]) -> Result<Vec<MmioRange>, ReportError> {
    let chunks = bytes.chunks_exact(RANGE).enumerate();
    chunks.map(|(n, chunk)| read_range(n, chunk)).collect()
}

fn read_range(n: usize, bytes: &[u8]) -> Result<MmioRange, ReportError> {
    let range = MmioRange {
        first_page: le64(bytes, 0).unwrap_or_default(),
        pages: le32(bytes, 8).unwrap_or_default(),
        attributes: le32(bytes, 12).unwrap_or_default(),
    };
    let offset = fixed::LEN + n * RANGE;
    if range.pages == 0 {
        return Err(ReportError::EmptyRange { n, offset });
    }
    let end = range.first_page.checked_add(u64::from(range.pages));
    if end.is_none_or(|end| end > 1 << 52) {
        return Err(ReportError::RangeWraps {
            n,
            offset,
            first_page: range.first_page,
            pages: range.pages,
        });
    }
    Ok(range)
}

/// Reads what is behind the ranges of a report of `len` bytes.
fn device_specific(rest: &[u8], len: usize) -> Result<Vec<u8>, ReportError> {
    let offset = len - rest.len();
    let own = || {
        let size = usize::try_from(le32(rest, 0)?).ok()?;
        rest.get(LENGTH..)?.split_at_checked(size)
    };
    let (own, padding) = own().ok_or(ReportError::DeviceSpecific { offset, len })?;
    if padding.len() > MAX_PADDING || padding.iter().any(|&byte| byte != 0) {
        let offset = len - padding.len();
        return Err(ReportError::TrailingBytes { offset, len });
    }
    Ok(own.to_vec())
}
