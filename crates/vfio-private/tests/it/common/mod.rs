// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device to describe in a line or two, for the tests.

pub mod bytes;

use vfio_private::areas::{AreasError, BarAreas};
use vfio_private::{
    Access, AddrRange, Bar, BarIndex, BarInput, BarKind, BarRange, ClassifyError, Msix, MsixParts,
    PageSize, Piece, Policy, Region, ReportedRange, SparseArea, TeeKind, classify,
};

/// One BAR and everything the classifier is told about it.
#[derive(Clone, Debug)]
pub struct Device {
    pub bar: Bar,
    pub region: Region,
    pub msix: Option<Msix>,
    pub report: Option<Vec<ReportedRange>>,
    pub page: PageSize,
    pub policy: Policy,
}

pub fn index(bar: u8) -> BarIndex {
    BarIndex::new(bar).unwrap()
}

pub fn span(offset: u64, size: u64) -> AddrRange {
    AddrRange::new(offset, size.into()).unwrap()
}

/// The offset just behind a range.
pub fn end(range: AddrRange) -> u64 {
    range.last() + 1
}

pub fn in_bar(bar: u8, offset: u64, size: u64) -> BarRange {
    BarRange {
        bar: index(bar),
        range: span(offset, size),
    }
}

pub fn tee(offset: u64, size: u64) -> ReportedRange {
    ReportedRange {
        range: span(offset, size),
        kind: TeeKind::Tee,
        msix: MsixParts::NONE,
    }
}

pub fn non_tee(offset: u64, size: u64) -> ReportedRange {
    ReportedRange {
        range: span(offset, size),
        kind: TeeKind::NonTee,
        msix: MsixParts::NONE,
    }
}

impl Device {
    /// A mappable memory BAR 0 without MSI-X and without a report, on pages of 4 KiB.
    pub fn with_bar(size: u64) -> Self {
        Self {
            bar: Bar::new(index(0), BarKind::Memory, size).unwrap(),
            region: Region::mappable(),
            msix: None,
            report: None,
            page: PageSize::Size4K,
            policy: Policy::new(),
        }
    }

    pub fn msix(self, table: BarRange, pba: BarRange) -> Self {
        Self {
            msix: Some(Msix { table, pba }),
            ..self
        }
    }

    pub fn report(self, ranges: &[ReportedRange]) -> Self {
        Self {
            report: Some(ranges.to_vec()),
            ..self
        }
    }

    pub fn page(self, page: PageSize) -> Self {
        Self { page, ..self }
    }

    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    pub fn sparse(mut self, areas: &[(u64, u64)]) -> Self {
        let areas = areas
            .iter()
            .map(|&(offset, size)| SparseArea { offset, size });
        self.region.sparse = Some(areas.collect());
        self
    }

    pub fn classify(&self) -> Result<Vec<Piece>, ClassifyError> {
        let input = BarInput::new(self.bar, &self.region)
            .with_msix(self.msix)
            .with_report(self.report.as_deref());
        classify(&input, self.page, self.policy)
    }

    /// The pieces as areas.
    pub fn areas(&self) -> BarAreas {
        self.try_areas().unwrap()
    }

    pub fn try_areas<const N: usize>(&self) -> Result<BarAreas<N>, AreasError> {
        let input = BarInput::new(self.bar, &self.region)
            .with_msix(self.msix)
            .with_report(self.report.as_deref());
        BarAreas::carve_bounded(&input, self.page, self.policy)
    }

    /// The pieces as they print.
    pub fn lines(&self) -> Vec<String> {
        let pieces = self.classify().unwrap();
        pieces.iter().map(ToString::to_string).collect()
    }

    /// The pieces as offset, size and access.
    pub fn shape(&self) -> Vec<(u64, u64, Access)> {
        let pieces = self.classify().unwrap();
        pieces
            .iter()
            .map(|piece| (piece.offset(), piece.size(), piece.access()))
            .collect()
    }
}

/// The pieces start at 0, follow each other without gap, end with the BAR and can't be merged.
pub fn assert_tiles(bar: Bar, pieces: &[Piece]) {
    let mut end = 0;
    for piece in pieces {
        assert_eq!(piece.offset(), end);
        assert!(!piece.reasons().is_empty());
        end = self::end(piece.range());
    }
    assert_eq!(end, bar.size());
    for pair in pieces.windows(2) {
        let alike = |piece: &Piece| (piece.access(), piece.reasons());
        assert_ne!(
            alike(&pair[0]),
            alike(&pair[1]),
            "{} and {}",
            pair[0],
            pair[1]
        );
    }
}
