// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The classifier: computes the pieces of a BAR from the facts about it.

use alloc::vec::Vec;

use guest_ranges::PageSize;

use crate::bar::BarKind;
use crate::bar_input::{BarInput, Region};
use crate::error::ClassifyError;
use crate::facts::{BarFacts, MsixTrap};
use crate::isolation;
use crate::mappable::{self, Room};
use crate::msix::MsixPart;
use crate::piece::{Access, Piece};
use crate::policy::{Policy, SubPagePolicy};
use crate::reason::{Reason, Reasons};

/// Decides which bytes of a BAR are private, shared, trapped or blocked, and why.
///
/// The pieces tile the BAR: they start at offset 0, each begins where the one before ends, and the
/// last ends with the BAR. Neighbours differ in access or reasons. The [crate] page has the rules.
///
/// Time and memory depend on the number of sparse-mmap areas and reported ranges, not on the size of
/// the BAR. With `a` areas and `r` ranges there are at most `5 + 2 * a + 6 * r` pieces.
///
/// # Errors
///
/// [`ClassifyError`] if the facts leave the BAR or contradict each other, or if a private range
/// would have to share a host page with something that is not private.
pub fn classify(
    input: &BarInput<'_>,
    page: PageSize,
    policy: Policy,
) -> Result<Vec<Piece>, ClassifyError> {
    let mut room = Room::new();
    let pieces = Pieces::new(input, page, policy, &mut room)?;
    Ok(pieces.collect())
}

/// The pieces of a BAR in order, computed one at a time. Without a report nothing is allocated.
pub(crate) struct Pieces<'a> {
    rules: Rules<'a>,
    /// Where the bytes start that have not been looked at.
    start: u64,
    /// Bytes that differ from those of the piece before.
    ahead: Option<Piece>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(
        input: &BarInput<'a>,
        page: PageSize,
        policy: Policy,
        room: &'a mut Room,
    ) -> Result<Self, ClassifyError> {
        let facts = BarFacts::new(input, page, policy, room)?;
        isolation::check(&facts, input.report.unwrap_or_default())?;
        Ok(Self {
            rules: Rules {
                facts,
                region: input.region,
                sub_page: policy.sub_page(),
            },
            start: 0,
            ahead: None,
        })
    }

    fn uniform(&mut self) -> Option<Piece> {
        let range = self.rules.facts.uniform_from(self.start)?;
        let (access, reasons) = self.rules.at(range.start());
        self.start = range.last() + 1;
        Some(Piece::new(range, access, reasons))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut piece = self.ahead.take().or_else(|| self.uniform())?;
        while let Some(next) = self.uniform() {
            match piece.joined(next) {
                Some(joined) => piece = joined,
                None => {
                    self.ahead = Some(next);
                    break;
                }
            }
        }
        Some(piece)
    }
}

/// How the report lists a byte.
#[derive(Clone, Copy)]
enum Listing {
    NoReport,
    Tee,
    NonTee,
    Unreported,
}

/// The rules, which look at one byte at a time.
struct Rules<'a> {
    facts: BarFacts<'a>,
    region: &'a Region,
    sub_page: SubPagePolicy,
}

impl Rules<'_> {
    /// The access of the byte at `offset`, and the reasons.
    fn at(&self, offset: u64) -> (Access, Reasons) {
        if self.facts.bar.kind() == BarKind::Io {
            return (Access::Trap, Reason::IoBar.into());
        }
        let listing = self.listing(offset);
        let msix = self.msix_obstacles(offset);
        match listing {
            // Goes by dma-buf, so it does not matter what VFIO lets userspace map. That nothing
            // else is in the page has been checked.
            Listing::Tee => return (Access::Private, self.reasons_for_privacy(offset)),
            // What the device does not vouch for is out of reach, with one exception: without its
            // MSI-X structures the guest gets no interrupts.
            Listing::Unreported if msix.is_empty() => {
                return (Access::Blocked, Reason::Unreported.into());
            }
            _ => {}
        }
        let obstacles = msix
            | self.vfio_obstacles(offset)
            | self.report_obstacles(offset, listing)
            | self.sub_page_obstacles();
        if obstacles.is_empty() {
            (Access::Shared, self.reasons_to_share(listing))
        } else {
            (Access::Trap, obstacles)
        }
    }

    fn listing(&self, offset: u64) -> Listing {
        match &self.facts.report {
            None => Listing::NoReport,
            Some(report) if report.tee.contains(offset) => Listing::Tee,
            Some(report) if report.non_tee.contains(offset) => Listing::NonTee,
            Some(_) => Listing::Unreported,
        }
    }

    /// What the VMM must trap to handle interrupts.
    fn msix_obstacles(&self, offset: u64) -> Reasons {
        let mut obstacles = Reasons::default();
        for trap in self.facts.traps().filter(|trap| trap.is_carved) {
            let reason = match trap.part {
                MsixPart::Table => Reason::MsixTable,
                MsixPart::Pba => Reason::MsixPba,
            };
            obstacles = obstacles | Reasons::when(trap.pages.contains(offset), reason);
        }
        obstacles
    }

    /// What VFIO does not let userspace map.
    fn vfio_obstacles(&self, offset: u64) -> Reasons {
        if !self.region.mmap {
            return Reason::RegionNotMappable.into();
        }
        let outside = !mappable::contains(self.facts.mappable_pages, offset);
        let has_table =
            |trap: &MsixTrap| trap.part == MsixPart::Table && trap.pages.contains(offset);
        let refused = !self.region.msix_mappable && self.facts.traps().any(has_table);
        Reasons::when(outside, Reason::OutsideSparseAreas)
            | Reasons::when(refused, Reason::MsixNotMappable)
    }

    /// Bytes in the same page that the guest must not reach.
    fn report_obstacles(&self, offset: u64, listing: Listing) -> Reasons {
        let report = self.facts.report.as_ref();
        let mixed = report.is_some_and(|report| report.mixed_pages.contains(offset));
        match listing {
            Listing::NonTee => Reasons::when(mixed, Reason::PageHasUnreported),
            Listing::Unreported => Reason::Unreported.into(),
            Listing::NoReport | Listing::Tee => Reasons::default(),
        }
    }

    fn sub_page_obstacles(&self) -> Reasons {
        let trapped = self.facts.is_sub_page() && self.sub_page == SubPagePolicy::Trap;
        Reasons::when(trapped, Reason::SubPageBar)
    }

    fn reasons_for_privacy(&self, offset: u64) -> Reasons {
        let report = self.facts.report.as_ref();
        let msix = report.is_some_and(|report| report.guest_msix.contains(offset));
        Reasons::from(Reason::ReportedTee) | Reasons::when(msix, Reason::MsixLeftToGuest)
    }

    fn reasons_to_share(&self, listing: Listing) -> Reasons {
        let why = match listing {
            Listing::NoReport => Reason::NoReport,
            _ => Reason::ReportedNonTee,
        };
        Reasons::from(why) | Reasons::when(self.facts.is_sub_page(), Reason::ExpandedBar)
    }
}
