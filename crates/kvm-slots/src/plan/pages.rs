// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages change from private to shared, and the other way.

use super::error::{PlanError, UnsupportedRange};
use guest_ranges::{AddrRange, PageRange, coalesce, subtract};

use super::op::Op;
use crate::caps::Capabilities;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::unsupported::Unsupported;

/// The operations that set attributes: those that make pages shared come before
/// all moves, those that make pages private behind them.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) shared: Vec<Op>,
    pub(super) private: Vec<Op>,
}

impl Attributes {
    /// How many operations there are.
    pub(super) fn len(&self) -> usize {
        self.shared.len() + self.private.len()
    }

    /// Whether no page changes.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages that this kernel cannot make private.
    pub(super) fn unsupported(
        &self,
        capabilities: &Capabilities,
    ) -> impl Iterator<Item = UnsupportedRange> + '_ {
        let able = capabilities.memory_attributes & MEMORY_ATTRIBUTE_PRIVATE != 0;
        let all = self.shared.iter().chain(&self.private);
        all.filter_map(move |op| match op {
            Op::SetPrivate { pages, .. } if !able => Some(UnsupportedRange {
                gpa: pages.start(),
                size: pages.size(),
                why: Unsupported::NoPrivatePages,
            }),
            _ => None,
        })
    }
}

/// What leads from the private pages `old` to the private pages `new`: one
/// operation for each run of pages that change.
pub(super) fn attributes(
    old: &[PageRange],
    new: &[PageRange],
    page: u64,
) -> Result<Attributes, PlanError> {
    if old.is_empty() && new.is_empty() {
        return Ok(Attributes::default());
    }
    let (old, new) = (checked(old, page)?, checked(new, page)?);
    Ok(Attributes {
        shared: changes(&old, &new, false),
        private: changes(&new, &old, true),
    })
}

/// Checked, sorted, and joined where they touch.
fn checked(pages: &[PageRange], page_size: u64) -> Result<Vec<AddrRange>, PlanError> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    let aligned = |pages: &PageRange| (pages.start() | pages.size()) % page_size == 0;
    if let Some(&pages) = sorted.iter().find(|pages| !aligned(pages)) {
        return Err(PlanError::PagesUnaligned { pages, page_size });
    }
    let overlap = sorted
        .windows(2)
        .find(|pair| pair[1].start() < pair[0].end());
    if let Some(&[other, pages]) = overlap {
        return Err(PlanError::PagesOverlap { pages, other });
    }
    Ok(coalesce(sorted.into_iter().map(AddrRange::from)).collect())
}

/// One operation for each run of pages that is in `pages` and not in `others`.
fn changes(pages: &[AddrRange], others: &[AddrRange], private: bool) -> Vec<Op> {
    let runs = subtract(pages.iter().copied(), others.iter().copied());
    // What is left of whole pages are whole pages.
    let runs = runs.filter_map(|run| PageRange::try_from(run).ok());
    runs.map(|pages| Op::SetPrivate { pages, private })
        .collect()
}
