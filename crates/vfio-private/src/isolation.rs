// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Checks that private bytes have their host pages to themselves.

use guest_ranges::AddrRange;

use crate::bar_input::{ReportedRange, TeeKind};
use crate::error::{ClassifyError, Neighbour};
use crate::facts::{BarFacts, ReportFacts, edges, locked_into_tee};
use crate::policy::TeeMsixPolicy;

/// Finds the lowest host page that a private range shares with something that is not private.
///
/// `ranges` is the report that `facts` was made from; the error names the range as it is there.
pub(crate) fn check(facts: &BarFacts<'_>, ranges: &[ReportedRange]) -> Result<(), ClassifyError> {
    match conflict(facts, ranges) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn conflict(facts: &BarFacts<'_>, ranges: &[ReportedRange]) -> Option<ClassifyError> {
    let report = facts.report.as_ref()?;
    let page = lowest_shared_page(facts, report)?;
    let neighbour = neighbour(facts, report, ranges, page)?;
    if matches!(neighbour, Neighbour::Msix(..)) {
        if let Some(error) = locked(facts, ranges, page) {
            return Some(error);
        }
    }
    Some(ClassifyError::PrivateNotSeparable {
        bar: facts.bar.index(),
        private: lowest_in(page, ranges, TeeKind::Tee)?,
        neighbour,
        page,
    })
}

/// The error for an MSI-X structure in `page` that the device reports as locked there. If locked
/// structures are left to the guest, another cause keeps the page from being private.
fn locked(
    facts: &BarFacts<'_>,
    ranges: &[ReportedRange],
    page: AddrRange,
) -> Option<ClassifyError> {
    if facts.tee_msix != TeeMsixPolicy::Refuse {
        return None;
    }
    let tee = &facts.report.as_ref()?.tee;
    let mut in_tee = facts
        .traps()
        .filter(|trap| tee.first_overlapping(trap.pages).is_some());
    let can_be_left = in_tee
        .clone()
        .all(|trap| locked_into_tee(ranges, trap.part).covers(trap.bytes));
    in_tee.find_map(|trap| {
        let here = trap.bytes.intersect(page)?;
        let is_marked =
            |range: &&ReportedRange| range.kind == TeeKind::Tee && range.msix.contains(trap.part);
        let marked = ranges.iter().filter(is_marked).map(|marked| marked.range);
        Some(ClassifyError::MsixLocked {
            bar: facts.bar.index(),
            part: trap.part,
            structure: trap.bytes,
            private: marked.filter(|range| range.overlaps(here)).min()?,
            page,
            can_be_left,
        })
    })
}

/// A page is shared if private bytes fill it only in part, in which case one of their edges is off
/// the page boundaries, or if the page is to be trapped.
fn lowest_shared_page(facts: &BarFacts<'_>, report: &ReportFacts) -> Option<AddrRange> {
    let partly = edges(&report.tee).find(|&edge| !facts.page.is_aligned(edge));
    let trapped = facts.traps().filter_map(|trap| {
        let tee = report.tee.first_overlapping(trap.pages)?;
        Some(tee.intersect(trap.pages)?.start())
    });
    let offset = partly.into_iter().chain(trapped).min()?;
    Some(facts.page.page_of(offset))
}

/// What private bytes in `page` share it with. What no other report could mend comes first: the
/// end of the BAR, then the MSI-X structures.
fn neighbour(
    facts: &BarFacts<'_>,
    report: &ReportFacts,
    ranges: &[ReportedRange],
    page: AddrRange,
) -> Option<Neighbour> {
    if let Some(behind) = AddrRange::from_bounds(facts.bar.size(), page.last()) {
        return Some(Neighbour::BehindBar(behind));
    }
    if let Some(trap) = facts.traps().find(|trap| trap.bytes.overlaps(page)) {
        return Some(Neighbour::Msix(trap.part, trap.bytes));
    }
    if let Some(non_tee) = lowest_in(page, ranges, TeeKind::NonTee) {
        return Some(Neighbour::NonTee(non_tee));
    }
    let unreported = report.unreported.first_overlapping(page)?;
    Some(Neighbour::Unreported(unreported))
}

/// The lowest reported range of `kind` with a byte in `page`, whole.
fn lowest_in(page: AddrRange, ranges: &[ReportedRange], kind: TeeKind) -> Option<AddrRange> {
    let same_kind = ranges.iter().filter(|range| range.kind == kind);
    let ranges = same_kind.map(|reported| reported.range);
    ranges.filter(|range| range.overlaps(page)).min()
}
