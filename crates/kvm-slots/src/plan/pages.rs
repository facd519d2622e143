// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans the pages that change between private and shared.

use super::error::{PlanError, UnsupportedRange};
use guest_ranges::{AddrRange, PageRange, PageSize, coalesce, subtract};

use super::op::Op;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::unsupported::Unsupported;
use crate::vm::caps::Capabilities;

/// The operations that set attributes. Pages become shared before all moves, and
/// private after them.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) shared: Vec<Op>,
    pub(super) private: Vec<Op>,
}

impl Attributes {
    /// The number of operations.
    pub(super) fn len(&self) -> usize {
        self.shared.len() + self.private.len()
    }

    /// Whether no page changes.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages that the kernel cannot make private.
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

/// Plans the change from the private pages `old` to `new`, with one operation for
/// each run of pages.
pub(super) fn attributes(
    old: &[PageRange],
    new: &[PageRange],
    page: PageSize,
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

/// Checks and sorts pages, and joins adjacent ranges.
fn checked(pages: &[PageRange], page_size: PageSize) -> Result<Vec<AddrRange>, PlanError> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    if let Some(&pages) = sorted.iter().find(|pages| !pages.is_whole(page_size)) {
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

/// One operation for each run of pages in `pages` but not in `others`.
fn changes(pages: &[AddrRange], others: &[AddrRange], private: bool) -> Vec<Op> {
    let runs = subtract(pages.iter().copied(), others.iter().copied());
    // Whole pages minus whole pages are whole pages.
    let runs = runs.filter_map(|run| PageRange::try_from(run).ok());
    runs.map(|pages| Op::SetPrivate { pages, private })
        .collect()
}
