// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Checks the facts about a BAR and converts each to the set of bytes that it holds for.
//!
//! A fact about a host page applies to all bytes of the page. So whether a fact holds at an offset
//! does not depend on other offsets.

use guest_ranges::{AddrRange, PageSize, RangeSet};

use crate::bar::{Bar, BarKind};
use crate::bar_input::{BarInput, ReportedRange, TeeKind};
use crate::error::ClassifyError;
use crate::mappable::{self, Room, mappable_pages};
use crate::msix::{Msix, MsixPart};
use crate::policy::{MsixPlacement, PbaPolicy, Policy, TeeMsixPolicy};

/// The facts about one BAR that decide the access of its bytes. Only those of a report are on the
/// heap.
#[derive(Debug)]
pub(crate) struct BarFacts<'a> {
    pub(crate) bar: Bar,
    pub(crate) page: PageSize,
    pub(crate) tee_msix: TeeMsixPolicy,
    /// The MSI-X structures in this BAR that belong to the host.
    traps: MsixTraps,
    /// The host pages that VFIO's sparse-mmap areas hold as a whole; all of the BAR without areas.
    /// Sorted.
    pub(crate) mappable_pages: &'a [AddrRange],
    pub(crate) report: Option<ReportFacts>,
}

/// At most one for the table and one for the PBA.
type MsixTraps = [Option<MsixTrap>; 2];

/// An MSI-X structure that belongs to the host: none of its pages can be private.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MsixTrap {
    pub(crate) part: MsixPart,
    /// The structure itself.
    pub(crate) bytes: AddrRange,
    /// The host pages it is in.
    pub(crate) pages: AddrRange,
    /// Whether the guest finds the structure here, so that its pages trap, and not elsewhere.
    pub(crate) is_carved: bool,
}

/// The ranges of the TDISP report in the BAR, as sets.
#[derive(Debug)]
pub(crate) struct ReportFacts {
    pub(crate) tee: RangeSet,
    pub(crate) non_tee: RangeSet,
    pub(crate) unreported: RangeSet,
    /// Marked TEE ranges that hold MSI-X structures left to the guest.
    pub(crate) guest_msix: RangeSet,
    /// Host pages with NON_TEE as well as unreported bytes.
    pub(crate) mixed_pages: RangeSet,
}

impl<'a> BarFacts<'a> {
    /// Checks that the input fits the BAR and is free of contradictions, and converts it to sets.
    pub(crate) fn new(
        input: &BarInput<'_>,
        page: PageSize,
        policy: Policy,
        room: &'a mut Room,
    ) -> Result<Self, ClassifyError> {
        let bar = input.bar;
        let mut traps = msix_traps(bar, input.msix, page, policy)?;
        let mappable_pages = mappable_pages(bar, input.region, page, room)?;
        let mut report = None;
        if let Some(ranges) = input.report {
            let mut facts = ReportFacts::new(bar, ranges, page)?;
            check_marks(bar, input.msix, ranges)?;
            if policy.tee_msix() == TeeMsixPolicy::Private {
                facts.leave_msix_to_guest(&mut traps, ranges);
            }
            report = Some(facts);
        }
        Ok(Self {
            bar,
            page,
            tee_msix: policy.tee_msix(),
            traps,
            mappable_pages,
            report,
        })
    }

    /// The MSI-X structures in this BAR that belong to the host.
    pub(crate) fn traps(&self) -> impl Iterator<Item = &MsixTrap> + Clone {
        self.traps.iter().flatten()
    }

    /// Whether a host page is more than the BAR can fill. A larger BAR fills its last page, since
    /// both sizes are powers of two.
    pub(crate) fn is_sub_page(&self) -> bool {
        self.bar.size() < self.page.bytes()
    }

    /// The bytes from `start` on that have the same facts as the byte there: up to the next offset
    /// at which a fact begins or ceases to hold. `None` behind the end of the BAR.
    pub(crate) fn uniform_from(&self, start: u64) -> Option<AddrRange> {
        let here = AddrRange::from_bounds(start, self.bar.extent().last())?;
        let from_here = |set: &RangeSet| set.first_overlapping(here);
        let of_report = self.report.iter().flat_map(|report| {
            [
                from_here(&report.tee),
                from_here(&report.non_tee),
                from_here(&report.guest_msix),
                from_here(&report.mixed_pages),
            ]
        });
        let mappable = mappable::at_or_above(self.mappable_pages, start);
        let traps = self.traps().map(|trap| trap.pages);
        let held = mappable.into_iter().chain(traps);
        let edges = held.chain(of_report.flatten()).flat_map(ends);
        let next = edges.filter(|&edge| edge > start).min();
        // A page reaches past the end of a BAR that is smaller.
        let last = next.map_or(here.last(), |next| here.last().min(next - 1));
        AddrRange::from_bounds(start, last)
    }
}

/// Every offset at which membership in the set changes, in ascending order.
pub(crate) fn edges(set: &RangeSet) -> impl Iterator<Item = u64> {
    set.iter().flat_map(ends)
}

/// Where a range starts, and the offset just behind it.
fn ends(range: AddrRange) -> impl Iterator<Item = u64> {
    let behind = range.last().checked_add(1);
    [range.start()].into_iter().chain(behind)
}

fn msix_traps(
    bar: Bar,
    msix: Option<Msix>,
    page: PageSize,
    policy: Policy,
) -> Result<MsixTraps, ClassifyError> {
    let mut traps = MsixTraps::default();
    let Some(msix) = msix else {
        return Ok(traps);
    };
    let parts = [(MsixPart::Table, msix.table), (MsixPart::Pba, msix.pba)];
    for (slot, (part, place)) in traps.iter_mut().zip(parts) {
        if place.bar != bar.index() {
            continue;
        }
        check_msix(bar, part, place.range)?;
        if part == MsixPart::Pba && policy.pba() == PbaPolicy::Map {
            continue;
        }
        *slot = Some(MsixTrap {
            part,
            bytes: place.range,
            pages: page.round_out(place.range),
            is_carved: policy.msix() == MsixPlacement::Carve,
        });
    }
    Ok(traps)
}

fn check_msix(bar: Bar, part: MsixPart, range: AddrRange) -> Result<(), ClassifyError> {
    if bar.kind() == BarKind::Io {
        return Err(ClassifyError::MsixInIoBar {
            bar: bar.index(),
            part,
            range,
        });
    }
    if !bar.extent().covers(range) {
        return Err(ClassifyError::MsixOutsideBar {
            bar: bar.index(),
            bar_size: bar.size(),
            part,
            range,
        });
    }
    Ok(())
}

impl ReportFacts {
    fn new(bar: Bar, ranges: &[ReportedRange], page: PageSize) -> Result<Self, ClassifyError> {
        for &range in ranges {
            check_reported(bar, range)?;
        }
        check_contradictions(bar, ranges)?;

        let of_kind = |kind| {
            let same_kind = ranges.iter().filter(move |range| range.kind == kind);
            RangeSet::from_iter(same_kind.map(|reported| reported.range))
        };
        let reported: RangeSet = ranges.iter().map(|reported| reported.range).collect();
        let unreported = reported.gaps(bar.extent()).collect();
        let non_tee = of_kind(TeeKind::NonTee);
        Ok(Self {
            tee: of_kind(TeeKind::Tee),
            mixed_pages: mixed_pages(&non_tee, &unreported, page),
            non_tee,
            unreported,
            guest_msix: RangeSet::default(),
        })
    }

    /// Drops the traps of the structures that lie in TEE ranges marked for them, as a whole.
    fn leave_msix_to_guest(&mut self, traps: &mut MsixTraps, ranges: &[ReportedRange]) {
        for slot in traps {
            let Some(trap) = *slot else { continue };
            let marked = locked_into_tee(ranges, trap.part);
            if marked.covers(trap.bytes) {
                marked
                    .iter()
                    .for_each(|range| self.guest_msix.insert(range));
                *slot = None;
            }
        }
    }
}

/// The TEE ranges that are marked to hold `part`.
pub(crate) fn locked_into_tee(ranges: &[ReportedRange], part: MsixPart) -> RangeSet {
    let is_marked =
        |range: &&ReportedRange| range.kind == TeeKind::Tee && range.msix.contains(part);
    let marked = ranges.iter().filter(is_marked);
    marked.map(|marked| marked.range).collect()
}

/// Checks that a range that is marked for a structure holds some of it. This detects a report that
/// was converted to wrong offsets.
fn check_marks(
    bar: Bar,
    msix: Option<Msix>,
    ranges: &[ReportedRange],
) -> Result<(), ClassifyError> {
    for range in ranges {
        for part in [MsixPart::Table, MsixPart::Pba] {
            let at = msix.map(|msix| msix.place(part));
            let is_there =
                at.is_some_and(|at| at.bar == bar.index() && at.range.overlaps(range.range));
            if range.msix.contains(part) && !is_there {
                return Err(ClassifyError::ReportMisplacesMsix {
                    bar: bar.index(),
                    part,
                    range: range.range,
                    at,
                });
            }
        }
    }
    Ok(())
}

fn check_reported(bar: Bar, range: ReportedRange) -> Result<(), ClassifyError> {
    if bar.kind() == BarKind::Io {
        return Err(ClassifyError::ReportInIoBar {
            bar: bar.index(),
            range,
        });
    }
    if !bar.extent().covers(range.range) {
        return Err(ClassifyError::ReportOutsideBar {
            bar: bar.index(),
            bar_size: bar.size(),
            range,
        });
    }
    Ok(())
}

/// One pass over the ranges in order of offset: a range contradicts an earlier one of the other
/// kind exactly if it starts before the furthest end of those.
fn check_contradictions(bar: Bar, ranges: &[ReportedRange]) -> Result<(), ClassifyError> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|reported| reported.range);
    let mut furthest_tee: Option<AddrRange> = None;
    let mut furthest_non_tee: Option<AddrRange> = None;
    for ReportedRange { range, kind, .. } in sorted {
        let (same, other) = match kind {
            TeeKind::Tee => (&mut furthest_tee, furthest_non_tee),
            TeeKind::NonTee => (&mut furthest_non_tee, furthest_tee),
        };
        if let Some(other) = other.filter(|other| range.start() <= other.last()) {
            let (tee, non_tee) = match kind {
                TeeKind::Tee => (range, other),
                TeeKind::NonTee => (other, range),
            };
            return Err(ClassifyError::ReportContradicts {
                bar: bar.index(),
                tee,
                non_tee,
            });
        }
        if same.is_none_or(|same| same.last() < range.last()) {
            *same = Some(range);
        }
    }
    Ok(())
}

/// The host pages with both NON_TEE and unreported bytes.
///
/// In such a page a NON_TEE range starts or ends off a page boundary, so only the pages at the ends
/// of ranges are checked. (At the end of a BAR that is smaller than a page, nothing is unreported.)
fn mixed_pages(non_tee: &RangeSet, unreported: &RangeSet, page: PageSize) -> RangeSet {
    let ends = edges(non_tee).filter(|&edge| !page.is_aligned(edge));
    let pages = ends.map(|edge| page.page_of(edge));
    pages
        .filter(|&page| unreported.first_overlapping(page).is_some())
        .collect()
}
