// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Plans the operations for a change of mappings, as a pure function.

use core::fmt;

use guest_ranges::{AddrRange, RangeSet, subtract};
use thiserror::Error;

use crate::limits::DmaLimits;
use crate::range::DmaRange;
use crate::table::DmaTable;

/// The most mappings that are planned where the kernel has no limit of its own. The bookkeeping takes
/// a few hundred bytes for each.
pub const MOST_MAPPINGS: u64 = 1 << 22;

/// A change of mappings. IOVAs in neither list stay as they are, except in pages of the IOMMU that a list
/// has in part: a page is mapped as a whole or not at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct DmaChange<'a> {
    /// IOVAs to unmap, except for what `added` maps there.
    pub removed: &'a [AddrRange],
    /// Ranges to map, in place of what was there. They must not overlap.
    pub added: &'a [DmaRange],
}

/// Whether a plan may have gaps: pages that are mapped before and after, but not in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gaps {
    /// Gaps are allowed and listed in the plan. Devices cannot access the pages meanwhile.
    #[default]
    Allow,
    /// A change that needs a gap is refused, and so is one that unmaps IOVAs which it does not list.
    Refuse,
}

/// One operation on an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: each of them has to be carried out, and undone.
pub enum DmaOp {
    /// Removes adjacent mappings with one call.
    Unmap(Vec<DmaRange>),
    /// Adds one mapping.
    Map(DmaRange),
}

impl DmaOp {
    /// The IOVAs.
    pub fn iova(&self) -> Option<AddrRange> {
        match self {
            Self::Map(range) => Some(range.iova()),
            Self::Unmap(ranges) => {
                let (first, last) = (ranges.first()?, ranges.last()?);
                AddrRange::from_bounds(first.iova().start(), last.iova().last())
            }
        }
    }
}

/// For example `UNMAP 0x1000-0x2fff (2 mappings)`.
impl fmt::Display for DmaOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.iova()) {
            (Self::Map(range), _) => write!(f, "MAP {range}"),
            (Self::Unmap(ranges), Some(iova)) => {
                write!(f, "UNMAP {} ({} mappings)", iova.dashed(), ranges.len())
            }
            (Self::Unmap(_), None) => f.write_str("UNMAP nothing"),
        }
    }
}

/// Why bytes are not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeftOut {
    /// They fill a page of the IOMMU only in part.
    PartOfPage,
    /// The IOVAs and the memory are not aligned to each other's pages.
    Misaligned,
    /// The hardware reserves the IOVAs or does not reach them.
    Hole,
}

/// The operations of a change, and its side effects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaPlan {
    /// The operations in order: first all that unmap, then all that map.
    pub ops: Vec<DmaOp>,
    /// What is not mapped after the change although it was not to be removed, by IOVA: parts of added
    /// ranges, and unmapped IOVAs in neither list, which share a page of the IOMMU with the change.
    pub left_out: Vec<(AddrRange, LeftOut)>,
    /// What is mapped before and after but not in between, by IOVA.
    pub gaps: Vec<AddrRange>,
}

/// Why there is no plan. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DmaPlanError {
    /// Two ranges have IOVAs in common.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The lower one.
        first: Box<DmaRange>,
        /// The other, which starts in it.
        second: Box<DmaRange>,
    },
    /// The change needs more mappings than the limit.
    #[error("{needed} DMA mappings are needed, and there can be {limit}")]
    TooMany {
        /// The number of mappings needed.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The change needs a gap, and the choice is [`Gaps::Refuse`].
    #[error("{mapping} would have to be unmapped for {} to stay", gap.dashed())]
    Gap {
        /// The mapping of which a part is removed.
        mapping: Box<DmaRange>,
        /// The lowest pages that stay.
        gap: AddrRange,
    },
    /// The change lists a page of the IOMMU only in part, and the choice is [`Gaps::Refuse`].
    #[error("{} of {mapping} cannot stay mapped: the IOMMU's pages have {page_size:#x} bytes", part.dashed())]
    PartOfPage {
        /// The mapping that has the page.
        mapping: Box<DmaRange>,
        /// The lowest IOVAs that would be unmapped and are not listed.
        part: AddrRange,
        /// The size of the IOMMU's pages, in bytes.
        page_size: u64,
    },
}

/// Plans from the existing mappings to `target`, which is everything that devices should reach.
///
/// # Errors
///
/// [`DmaPlanError`].
pub fn plan_dma(
    table: &DmaTable,
    target: &[DmaRange],
    limits: &DmaLimits,
    gaps: Gaps,
) -> Result<DmaPlan, DmaPlanError> {
    let change = DmaChange {
        removed: &[AddrRange::ALL],
        added: target,
    };
    plan_dma_change(table, &change, limits, gaps)
}

/// Plans a change. Unchanged pages stay mapped, unless they share a mapping with a page that is
/// removed: no kernel unmaps a part of a mapping. Pages are the IOMMU's. One that is removed in part is
/// unmapped, and the rest of it is [left out](DmaPlan::left_out).
///
/// An [uncertain](DmaTable::uncertain) mapping with an IOVA in the change is unmapped. The rest of
/// that mapping is not mapped again, and is not reported as a gap. [`plan_dma`], which has all
/// target ranges, settles everything.
///
/// The cost depends on the change and the mappings in it, not on the number of mappings.
///
/// # Errors
///
/// [`DmaPlanError`].
pub fn plan_dma_change(
    table: &DmaTable,
    change: &DmaChange<'_>,
    limits: &DmaLimits,
    gaps: Gaps,
) -> Result<DmaPlan, DmaPlanError> {
    let added = in_order(change.added)?;
    let (pieces, mut left_out) = mappable(&added, limits);
    let changed = change.removed.iter().copied();
    let changed = changed.chain(added.iter().map(|range| range.iova()));
    let changed: RangeSet = changed.collect();
    let windows = changed.iter().map(|range| limits.pages_around(range));
    let windows: RangeSet = windows.collect();

    let mut target = Vec::new();
    let (mut kept, mut unmapped, mut gap) = (Vec::new(), Vec::new(), Vec::new());
    for mapping in touching(table, &windows) {
        // It may be mapped, whichever parts of it are still wanted.
        if table.is_uncertain(mapping) {
            unmapped.push(mapping.clone());
            continue;
        }
        let iova = mapping.iova();
        let same = overlapping(&pieces, iova).filter(|piece| piece.agrees_with(mapping));
        let same = same.filter_map(|piece| piece.iova().intersect(iova));
        let stays: RangeSet = windows.gaps(iova).chain(same).collect();
        if stays.covers(iova) {
            kept.push(iova);
            continue;
        }
        if let (Gaps::Refuse, Some(first)) = (gaps, stays.iter().next()) {
            return Err(DmaPlanError::Gap {
                mapping: Box::new(mapping.clone()),
                gap: first,
            });
        }
        let unlisted = windows.within(iova).flat_map(|part| changed.gaps(part));
        for part in unlisted {
            if gaps == Gaps::Refuse {
                return Err(DmaPlanError::PartOfPage {
                    mapping: Box::new(mapping.clone()),
                    part,
                    page_size: limits.page_size(),
                });
            }
            left_out.push((part, LeftOut::PartOfPage));
        }
        let rest = windows.gaps(iova);
        target.extend(rest.filter_map(|part| mapping.within(part)));
        gap.extend(stays.iter());
        unmapped.push(mapping.clone());
    }
    let kept: RangeSet = kept.into_iter().collect();
    for piece in &pieces {
        let missing = kept.gaps(piece.iova());
        target.extend(missing.filter_map(|part| piece.within(part)));
    }
    let target = joined(target);
    let stay = table.len() - unmapped.len();
    check_count(stay, &target, limits)?;
    let maps = in_units(target, limits.page_size());
    let unmaps = runs(unmapped).into_iter().map(DmaOp::Unmap);
    left_out.sort_unstable_by_key(|(part, _)| *part);
    Ok(DmaPlan {
        ops: unmaps.chain(maps.into_iter().map(DmaOp::Map)).collect(),
        left_out,
        gaps: gap.into_iter().collect::<RangeSet>().iter().collect(),
    })
}

/// The ranges by IOVA, if no two overlap.
pub(crate) fn in_order(added: &[DmaRange]) -> Result<Vec<&DmaRange>, DmaPlanError> {
    let mut added: Vec<&DmaRange> = added.iter().collect();
    added.sort_by_key(|range| range.iova());
    let overlap = added
        .windows(2)
        .find(|two| two[0].iova().overlaps(two[1].iova()));
    match overlap {
        None => Ok(added),
        Some(two) => Err(DmaPlanError::Overlap {
            first: Box::new(two[0].clone()),
            second: Box::new(two[1].clone()),
        }),
    }
}

/// The parts of the ranges that can be mapped, and those that cannot, both by IOVA.
fn mappable(added: &[&DmaRange], limits: &DmaLimits) -> (Vec<DmaRange>, Vec<(AddrRange, LeftOut)>) {
    let (mut pieces, mut left_out) = (Vec::new(), Vec::new());
    for range in added {
        let iova = range.iova();
        let shift = range.memory().position().wrapping_sub(iova.start());
        if shift % limits.page_size() != 0 {
            left_out.push((iova, LeftOut::Misaligned));
            continue;
        }
        let mapped = limits.mappable(iova);
        let whole = limits.pages_in(iova);
        let parts = subtract([iova], whole);
        let mut left: Vec<(AddrRange, LeftOut)> =
            parts.map(|part| (part, LeftOut::PartOfPage)).collect();
        if let Some(pages) = whole {
            let holes = subtract([pages], mapped.iter().copied());
            left.extend(holes.map(|hole| (hole, LeftOut::Hole)));
        }
        left.sort_unstable_by_key(|(part, _)| *part);
        left_out.extend(left);
        pieces.extend(mapped.into_iter().filter_map(|part| range.within(part)));
    }
    (pieces, left_out)
}

/// The mappings with an IOVA in the windows, each once, by IOVA.
fn touching<'a>(table: &'a DmaTable, windows: &'a RangeSet) -> impl Iterator<Item = &'a DmaRange> {
    let mut latest = None;
    windows
        .iter()
        .flat_map(|window| table.touching(window))
        .filter(move |mapping| latest.replace(mapping.iova()) != Some(mapping.iova()))
}

/// The pieces with an IOVA in `range`, of pieces by IOVA.
fn overlapping(pieces: &[DmaRange], range: AddrRange) -> impl Iterator<Item = &DmaRange> {
    let first = pieces.partition_point(|piece| piece.iova().last() < range.start());
    let from_there = pieces[first..].iter();
    from_there.take_while(move |piece| piece.iova().overlaps(range))
}

/// Joins ranges that are adjacent both in IOVAs and in memory.
fn joined(mut ranges: Vec<DmaRange>) -> Vec<DmaRange> {
    ranges.sort_by_key(DmaRange::iova);
    let mut joined: Vec<DmaRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined
            .last_mut()
            .and_then(|last| last.joined(&range).map(|both| (last, both)))
        {
            Some((last, both)) => *last = both,
            None => joined.push(range),
        }
    }
    joined
}

/// Checks that there can be mappings for these ranges beside those that stay. It does so before they
/// are cut, because a range can have any number of units.
fn check_count(stay: usize, target: &[DmaRange], limits: &DmaLimits) -> Result<(), DmaPlanError> {
    let added = target.iter().map(|range| match range.unit() {
        None => 1,
        Some(unit) => {
            let (iova, unit) = (range.iova(), unit.max(limits.page_size()));
            (iova.last() / unit - iova.start() / unit).saturating_add(1)
        }
    });
    let stay = u64::try_from(stay).unwrap_or(u64::MAX);
    let needed = added.fold(stay, u64::saturating_add);
    let limit = limits.mappings().unwrap_or(u64::MAX).min(MOST_MAPPINGS);
    check_limit(needed, limit)
}

pub(crate) fn check_limit(needed: u64, limit: u64) -> Result<(), DmaPlanError> {
    match needed > limit {
        true => Err(DmaPlanError::TooMany { needed, limit }),
        false => Ok(()),
    }
}

/// Cuts ranges where units end.
fn in_units(ranges: Vec<DmaRange>, page: u64) -> Vec<DmaRange> {
    let mut cut = Vec::with_capacity(ranges.len());
    for range in ranges {
        let Some(unit) = range.unit() else {
            cut.push(range);
            continue;
        };
        let (iova, unit) = (range.iova(), unit.max(page));
        let mut from = Some(iova.start());
        while let Some(part) = from.and_then(|from| in_unit(iova, from, unit)) {
            cut.extend(range.within(part));
            from = part.last().checked_add(1);
        }
    }
    cut
}

/// The part of `iova` from `from` on that is in the same unit.
fn in_unit(iova: AddrRange, from: u64, unit: u64) -> Option<AddrRange> {
    let last = (from | (unit - 1)).min(iova.last());
    AddrRange::from_bounds(from, last)
}

/// Groups adjacent mappings, which one call unmaps. A call across a hole could unmap mappings that
/// are not in the table.
fn runs(mappings: Vec<DmaRange>) -> Vec<Vec<DmaRange>> {
    let mut runs: Vec<Vec<DmaRange>> = Vec::new();
    for mapping in mappings {
        let last = runs.last_mut().filter(|run| {
            let touches = |last: &DmaRange| last.iova().joined(mapping.iova()).is_some();
            run.last().is_some_and(touches)
        });
        match last {
            Some(run) => run.push(mapping),
            None => runs.push(vec![mapping]),
        }
    }
    runs
}
