// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Private bytes of a BAR at guest-physical addresses.

use core::fmt;

use guest_ranges::{AddrRange, RangeSet};

use crate::bar::BarIndex;
use crate::piece::{Access, Piece};
use crate::tdi::attested::Generation;

/// The granularity of mappings: that of a report, whatever the host's pages are.
pub(super) const PAGE: u64 = 0x1000;

/// Bytes of a BAR, and where the guest finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    bar: BarIndex,
    bytes: AddrRange,
    gpa: AddrRange,
}

impl Mapping {
    /// `bytes` of `bar`, from the guest-physical address `gpa` on. `None` if they would end past 2^64.
    pub fn new(bar: BarIndex, bytes: AddrRange, gpa: u64) -> Option<Self> {
        let gpa = AddrRange::new(gpa, bytes.size())?;
        Some(Self { bar, bytes, gpa })
    }

    /// The BAR.
    pub const fn bar(self) -> BarIndex {
        self.bar
    }

    /// The bytes, from the start of the BAR.
    pub const fn bytes(self) -> AddrRange {
        self.bytes
    }

    /// The guest-physical addresses.
    pub const fn gpa(self) -> AddrRange {
        self.gpa
    }

    /// The part of the mapping at guest-physical addresses in `gpa`, if any.
    pub fn clipped(self, gpa: AddrRange) -> Option<Self> {
        let gpa = self.gpa.intersect(gpa)?;
        let skipped = gpa.start() - self.gpa.start();
        // The part is not longer than the whole, so neither end can wrap.
        let start = self.bytes.start() + skipped;
        let bytes = AddrRange::new(start, gpa.size())?;
        Some(Self {
            bar: self.bar,
            bytes,
            gpa,
        })
    }

    /// The parts of the mapping below and above `gpa`.
    pub fn outside(self, gpa: AddrRange) -> impl Iterator<Item = Self> {
        let below = gpa.start().checked_sub(1);
        let below = below.and_then(|last| AddrRange::from_bounds(0, last));
        let above = gpa.last().checked_add(1);
        let above = above.and_then(|start| AddrRange::from_bounds(start, u64::MAX));
        let parts = [below, above].into_iter().flatten();
        parts.filter_map(move |part| self.clipped(part))
    }

    /// Whether both contain a byte of the same BAR, or an address, in common.
    pub fn conflicts(self, other: Self) -> bool {
        let bytes = self.bar == other.bar && self.bytes.overlaps(other.bytes);
        bytes || self.gpa.overlaps(other.gpa)
    }

    /// Whether bytes and addresses are whole pages of 4 KiB.
    pub(super) fn is_aligned(self) -> bool {
        let is_whole =
            |range: AddrRange| range.start() % PAGE == 0 && range.last() % PAGE == PAGE - 1;
        is_whole(self.bytes) && is_whole(self.gpa)
    }

    /// This mapping and `next`, which continues it both in the BAR and in the guest.
    pub(super) fn joined(self, next: Self) -> Option<Self> {
        let bytes = self.bytes.joined(next.bytes)?;
        let gpa = self.gpa.joined(next.gpa)?;
        (self.bar == next.bar).then_some(Self {
            bar: self.bar,
            bytes,
            gpa,
        })
    }
}

/// For example `BAR 0 0x0-0xfff at 0xe0000000`.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bar, bytes, gpa) = (self.bar, self.bytes.dashed(), self.gpa.start());
        write!(f, "{bar} {bytes} at {gpa:#x}")
    }
}

/// What is known of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MappingState {
    /// It was asked for, and the platform has not confirmed it yet.
    Attempted,
    /// The guest has it.
    Confirmed,
    /// It is being taken from the guest. Neither its addresses nor its pages may be reused yet.
    Releasing,
    /// A step to take it from the guest failed or has an unknown outcome, so the guest may still have
    /// it. Neither its addresses nor its pages may be reused until a reset is confirmed.
    Quarantined,
}

/// For example `quarantined`.
impl fmt::Display for MappingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempted => "attempted",
            Self::Confirmed => "confirmed",
            Self::Releasing => "being released",
            Self::Quarantined => "quarantined",
        })
    }
}

/// A mapping that is not free, with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldMapping {
    /// The mapping.
    pub mapping: Mapping,
    /// Its state.
    pub state: MappingState,
    /// The lock under which it was asked for.
    pub generation: Generation,
}

/// For example `BAR 0 0x0-0xfff at 0xe0000000 (quarantined, lock 2 of TDI 0x100)`.
impl fmt::Display for HeldMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mapping, state, generation) = (self.mapping, self.state, self.generation);
        write!(f, "{mapping} ({state}, {generation})")
    }
}

/// The bytes of a device's BARs that only the guest may access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateBytes {
    bars: [RangeSet; BarIndex::COUNT as usize],
}

impl PrivateBytes {
    /// No bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with the [private](Access::Private) ones of these pieces of `bar`, which
    /// [`classify`](crate::classify) computed from a report.
    #[must_use]
    pub fn with_bar(mut self, bar: BarIndex, pieces: &[Piece]) -> Self {
        if let Some(bytes) = self.bars.get_mut(usize::from(bar.get())) {
            let private = pieces
                .iter()
                .filter(|piece| piece.access() == Access::Private);
            private.for_each(|piece| bytes.insert(piece.range()));
        }
        self
    }

    /// The first bytes of the mapping that are not private, if any.
    pub fn missing(&self, mapping: Mapping) -> Option<AddrRange> {
        let all = Some(mapping.bytes());
        let private = self.bars.get(usize::from(mapping.bar().get()));
        private.map_or(all, |private| private.gaps(mapping.bytes()).next())
    }
}
