// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The facts about a BAR, checked, and each turned into the set of bytes it is about.
//!
//! Every fact about a host page is spread here over all bytes of the page. After that, whether a
//! fact holds at an offset no longer depends on other offsets.

use crate::bar::{Bar, BarInput, BarKind, Msix, Region, ReportedRange, TeeKind};
use crate::coverage::Coverage;
use crate::error::{ClassifyError, MsixPart};
use crate::page::PageSize;
use crate::policy::{MsixPlacement, PbaPolicy, Policy, TeeMsixPolicy};
use crate::span::Span;

/// The facts about one BAR that decide the access of its bytes.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) bar: Bar,
    pub(crate) page: PageSize,
    pub(crate) tee_msix: TeeMsixPolicy,
    /// The MSI-X structures that are in this BAR and the host's.
    pub(crate) traps: Vec<MsixTrap>,
    /// The host pages that VFIO's sparse-mmap areas hold as a whole; all of the BAR without areas.
    pub(crate) mappable_pages: Coverage,
    pub(crate) report: Option<ReportLayers>,
}

/// An MSI-X structure that is the host's: no page of it can be private.
#[derive(Debug)]
pub(crate) struct MsixTrap {
    pub(crate) part: MsixPart,
    /// The structure itself.
    pub(crate) bytes: Span,
    /// The host pages it is in.
    pub(crate) pages: Span,
    /// The guest is shown it here, so that the pages trap, and not elsewhere.
    pub(crate) is_carved: bool,
}

/// What the TDISP report says of the BAR.
#[derive(Debug)]
pub(crate) struct ReportLayers {
    pub(crate) tee: Coverage,
    pub(crate) non_tee: Coverage,
    pub(crate) unreported: Coverage,
    /// Marked TEE ranges that hold MSI-X structures left to the guest.
    pub(crate) guest_msix: Coverage,
    /// Host pages with NON_TEE as well as unreported bytes.
    pub(crate) mixed_pages: Coverage,
}

impl Layers {
    /// Checks that the facts fit the BAR and each other, and sorts them into layers.
    pub(crate) fn new(
        input: &BarInput<'_>,
        page: PageSize,
        policy: Policy,
    ) -> Result<Self, ClassifyError> {
        let bar = input.bar;
        let mut traps = msix_traps(bar, input.msix, page, policy)?;
        let mappable_pages = mappable_pages(bar, input.region, page)?;
        let mut report = None;
        if let Some(ranges) = input.report {
            let mut layers = ReportLayers::new(bar, ranges, page)?;
            check_marks(bar, input.msix, ranges)?;
            if policy.tee_msix() == TeeMsixPolicy::Private {
                layers.leave_msix_to_guest(&mut traps, ranges);
            }
            report = Some(layers);
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

    /// Whether a host page is more than the BAR can fill. A larger BAR fills its last page, since
    /// both sizes are powers of two.
    pub(crate) fn is_sub_page(&self) -> bool {
        self.bar.size() < self.page.bytes()
    }

    /// Splits the BAR wherever a fact begins or ceases to hold, so that inside each span every
    /// byte has the same facts. The spans tile the BAR in ascending order.
    pub(crate) fn uniform_spans(&self) -> impl Iterator<Item = Span> + use<> {
        let mut cuts = vec![0, self.bar.size()];
        cuts.extend(self.mappable_pages.edges());
        for trap in &self.traps {
            cuts.extend([trap.pages.offset(), trap.pages.end()]);
        }
        if let Some(report) = &self.report {
            cuts.extend(report.tee.edges());
            cuts.extend(report.non_tee.edges());
            cuts.extend(report.guest_msix.edges());
            cuts.extend(report.mixed_pages.edges());
        }
        // A page reaches past the end of a BAR that is smaller.
        cuts.retain(|&cut| cut <= self.bar.size());
        cuts.sort_unstable();
        let mut from = 0;
        cuts.into_iter().filter_map(move |cut| {
            // Equal cuts leave nothing between them.
            let span = Span::between(from, cut);
            from = cut;
            span
        })
    }
}

fn msix_traps(
    bar: Bar,
    msix: Option<Msix>,
    page: PageSize,
    policy: Policy,
) -> Result<Vec<MsixTrap>, ClassifyError> {
    let mut traps = Vec::new();
    let Some(msix) = msix else {
        return Ok(traps);
    };
    for (part, place) in [(MsixPart::Table, msix.table), (MsixPart::Pba, msix.pba)] {
        if place.bar != bar.index() {
            continue;
        }
        check_msix(bar, part, place.span)?;
        if part == MsixPart::Pba && policy.pba() == PbaPolicy::Map {
            continue;
        }
        traps.extend(page.round_out(place.span).map(|pages| MsixTrap {
            part,
            bytes: place.span,
            pages,
            is_carved: policy.msix() == MsixPlacement::Carve,
        }));
    }
    Ok(traps)
}

fn check_msix(bar: Bar, part: MsixPart, span: Span) -> Result<(), ClassifyError> {
    if bar.kind() == BarKind::Io {
        return Err(ClassifyError::MsixInIoBar {
            bar: bar.index(),
            part,
            span,
        });
    }
    if span.end() > bar.size() {
        return Err(ClassifyError::MsixOutsideBar {
            bar: bar.index(),
            bar_size: bar.size(),
            part,
            span,
        });
    }
    Ok(())
}

fn mappable_pages(bar: Bar, region: &Region, page: PageSize) -> Result<Coverage, ClassifyError> {
    let Some(areas) = &region.sparse else {
        return Ok(Coverage::of([bar.extent()]));
    };
    let mut spans = Vec::with_capacity(areas.len());
    for area in areas.iter().filter(|area| area.size != 0) {
        match Span::new(area.offset, area.size) {
            Ok(span) if span.end() <= bar.size() => spans.push(span),
            _ => {
                return Err(ClassifyError::SparseAreaOutsideBar {
                    bar: bar.index(),
                    bar_size: bar.size(),
                    offset: area.offset,
                    size: area.size,
                });
            }
        }
    }
    // Joined first: two touching areas may hold a page between them. And what follows a BAR that
    // is smaller than a page is no byte of the region, so that no area can hold it or need to.
    let behind = page
        .round_out(bar.extent())
        .and_then(|pages| Span::between(bar.size(), pages.end()));
    let joined = Coverage::of(spans.into_iter().chain(behind));
    Ok(Coverage::of(
        joined.spans().filter_map(|span| page.round_in(span)),
    ))
}

impl ReportLayers {
    fn new(bar: Bar, ranges: &[ReportedRange], page: PageSize) -> Result<Self, ClassifyError> {
        for &range in ranges {
            check_reported(bar, range)?;
        }
        check_contradictions(bar, ranges)?;

        let of_kind = |kind| {
            let alike = ranges.iter().filter(move |range| range.kind == kind);
            Coverage::of(alike.map(|range| range.span))
        };
        let reported = Coverage::of(ranges.iter().map(|range| range.span));
        let unreported = reported.complement_in(bar.extent());
        let non_tee = of_kind(TeeKind::NonTee);
        Ok(Self {
            tee: of_kind(TeeKind::Tee),
            mixed_pages: mixed_pages(&non_tee, &unreported, page),
            non_tee,
            unreported,
            guest_msix: Coverage::default(),
        })
    }

    /// Drops the traps of the structures that lie in TEE ranges marked for them, as a whole.
    fn leave_msix_to_guest(&mut self, traps: &mut Vec<MsixTrap>, ranges: &[ReportedRange]) {
        let mut left = Vec::new();
        traps.retain(|trap| {
            let marked = locked_into_tee(ranges, trap.part);
            let holds_all = marked.holds(trap.bytes);
            if holds_all {
                left.extend(marked.spans());
            }
            !holds_all
        });
        self.guest_msix = Coverage::of(left);
    }
}

/// The TEE ranges that are marked to hold `part`.
pub(crate) fn locked_into_tee(ranges: &[ReportedRange], part: MsixPart) -> Coverage {
    let is_marked =
        |range: &&ReportedRange| range.kind == TeeKind::Tee && range.msix.contains(part);
    Coverage::of(ranges.iter().filter(is_marked).map(|range| range.span))
}

/// A range that is marked for a structure must hold some of it. This is what shows that a report
/// was taken back to the wrong offsets.
fn check_marks(
    bar: Bar,
    msix: Option<Msix>,
    ranges: &[ReportedRange],
) -> Result<(), ClassifyError> {
    for range in ranges {
        for part in [MsixPart::Table, MsixPart::Pba] {
            let at = msix.map(|msix| msix.place(part));
            let is_there =
                at.is_some_and(|at| at.bar == bar.index() && at.span.overlaps(range.span));
            if range.msix.contains(part) && !is_there {
                return Err(ClassifyError::ReportMisplacesMsix {
                    bar: bar.index(),
                    part,
                    range: range.span,
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
    if range.span.end() > bar.size() {
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
    sorted.sort_unstable_by_key(|range| range.span);
    let mut furthest_tee: Option<Span> = None;
    let mut furthest_non_tee: Option<Span> = None;
    for ReportedRange { span, kind, .. } in sorted {
        let (same, other) = match kind {
            TeeKind::Tee => (&mut furthest_tee, furthest_non_tee),
            TeeKind::NonTee => (&mut furthest_non_tee, furthest_tee),
        };
        if let Some(other) = other.filter(|other| span.offset() < other.end()) {
            let (tee, non_tee) = match kind {
                TeeKind::Tee => (span, other),
                TeeKind::NonTee => (other, span),
            };
            return Err(ClassifyError::ReportContradicts {
                bar: bar.index(),
                tee,
                non_tee,
            });
        }
        if same.is_none_or(|same| same.end() < span.end()) {
            *same = Some(span);
        }
    }
    Ok(())
}

/// The host pages with both NON_TEE and unreported bytes.
///
/// In such a page a NON_TEE range starts or ends off a page boundary, so only the pages at the ends
/// of ranges need a look. (At the end of a BAR that is smaller than a page, nothing is unreported.)
fn mixed_pages(non_tee: &Coverage, unreported: &Coverage, page: PageSize) -> Coverage {
    let ends = non_tee.edges().filter(|&edge| !page.is_aligned(edge));
    let pages = ends.filter_map(|edge| page.page_of(edge));
    Coverage::of(pages.filter(|&page| unreported.first_overlapping(page).is_some()))
}
