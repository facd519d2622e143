// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An area that the VMM maps into the guest, without a place and with one.

use core::fmt;

use guest_ranges::{AddrRange, PageSize};

use crate::bar::BarIndex;
use crate::piece::{Access, Piece};

/// An area that is mapped into the guest: whole host pages of the VFIO region.
///
/// A BAR that is smaller than a host page is mapped with the rest of its page, if the policy
/// [expands](crate::SubPagePolicy::Expand) it. Both KVM and the IOMMU take only whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappedArea {
    pages: AddrRange,
    piece: Piece,
}

impl MappedArea {
    /// The pages of a piece, if it is mapped.
    pub(super) fn of(piece: Piece, page: PageSize) -> Option<Self> {
        let pages = page.round_out(piece.range());
        piece.kvm_mappable().then_some(Self { pages, piece })
    }

    /// The host pages, as offsets from the start of the BAR.
    pub const fn pages(self) -> AddrRange {
        self.pages
    }

    /// Where the pages start, in bytes from the start of the BAR. Add the offset of the region in the
    /// device's file for `mmap`.
    pub const fn offset(self) -> u64 {
        self.pages.start()
    }

    /// The size of the pages in bytes.
    pub const fn size(self) -> u64 {
        // A BAR has at most 2^63 bytes, and so do its pages.
        self.pages.last() - self.pages.start() + 1
    }

    /// [`Access::Shared`] for a mapping of the VMM, [`Access::Private`] for a dma-buf.
    pub const fn access(self) -> Access {
        self.piece.access()
    }

    /// The bytes of the BAR that are in the pages, and why they are mapped.
    pub const fn piece(self) -> Piece {
        self.piece
    }

    /// Whether the pages have bytes behind the end of the BAR.
    pub(super) fn is_expanded(self) -> bool {
        self.pages != self.piece.range()
    }
}

/// For example `0x0-0x1fff shared`.
impl fmt::Display for MappedArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pages.dashed(), self.access())
    }
}

/// An area of a BAR at its place in the guest's memory: one memslot, or one DMA mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlacedArea {
    bar: BarIndex,
    gpa: AddrRange,
    area: MappedArea,
}

impl PlacedArea {
    /// The area of a BAR that starts at `at`; `None` if it ends past 2^64.
    pub(super) fn new(bar: BarIndex, at: u64, area: MappedArea) -> Option<Self> {
        let start = at.checked_add(area.offset())?;
        let gpa = AddrRange::new(start, area.size().into())?;
        Some(Self { bar, gpa, area })
    }

    /// The BAR.
    pub const fn bar(self) -> BarIndex {
        self.bar
    }

    /// The guest-physical addresses of the pages. IOVAs are the same numbers.
    pub const fn gpa(self) -> AddrRange {
        self.gpa
    }

    /// The area.
    pub const fn area(self) -> MappedArea {
        self.area
    }

    /// Whether the BAR of this area starts at `at`.
    pub(super) fn starts_with_bar_at(self, at: u64) -> bool {
        at.checked_add(self.area.offset()) == Some(self.gpa.start())
    }

    /// Whether one mapping serves both, whatever the reasons for it.
    pub(super) fn is_same_mapping(self, other: Self) -> bool {
        let key = |placed: Self| {
            let area = placed.area;
            (placed.bar, placed.gpa, area.pages(), area.access())
        };
        key(self) == key(other)
    }
}

/// For example `BAR 0 + 0x0-0x1fff shared at 0xe0000000-0xe0001fff`.
impl fmt::Display for PlacedArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} + {} at {}", self.bar, self.area, self.gpa.dashed())
    }
}
