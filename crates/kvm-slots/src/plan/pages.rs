// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages change from private to shared, and the other way.

use super::error::{PlanError, UnsupportedRange};
use super::op::{Op, PageRun};
use crate::abi::Unsupported;
use crate::caps::Capabilities;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;

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
                gpa: pages.gpa,
                size: pages.size,
                why: Unsupported::NoPrivatePages,
            }),
            _ => None,
        })
    }
}

/// What leads from the private pages `old` to the private pages `new`: one
/// operation for each run of pages that change.
pub(super) fn attributes(
    old: &[PageRun],
    new: &[PageRun],
    page: u64,
) -> Result<Attributes, PlanError> {
    if old.is_empty() && new.is_empty() {
        return Ok(Attributes::default());
    }
    let (old, new) = (runs(old, page)?, runs(new, page)?);
    let set = |runs: Vec<Run>, private| {
        let ops = runs.into_iter().map(move |(gpa, end)| Op::SetPrivate {
            pages: PageRun {
                gpa,
                size: end - gpa,
            },
            private,
        });
        ops.collect()
    };
    Ok(Attributes {
        shared: set(without(&old, &new), false),
        private: set(without(&new, &old), true),
    })
}

/// The first address and the one behind the last. KVM has no attributes for
/// the very last page either: its ioctl refuses what ends at 2^64.
type Run = (u64, u64);

/// Checked, sorted, and joined where they touch.
fn runs(pages: &[PageRun], page: u64) -> Result<Vec<Run>, PlanError> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for pages in sorted {
        let bad = PlanError::BadPages(pages);
        let end = pages.gpa.checked_add(pages.size).ok_or(bad.clone())?;
        let aligned = pages.gpa % page == 0 && pages.size % page == 0;
        match runs.last_mut() {
            _ if !aligned || pages.size == 0 => return Err(bad),
            Some((_, last)) if pages.gpa < *last => return Err(bad),
            Some((_, last)) if pages.gpa == *last => *last = end,
            _ => runs.push((pages.gpa, end)),
        }
    }
    Ok(runs)
}

/// What of `runs` is not in `others`.
fn without(runs: &[Run], others: &[Run]) -> Vec<Run> {
    let mut rest = Vec::new();
    let mut others = others.iter().copied().peekable();
    for &(mut from, end) in runs {
        while let Some(&(other, other_end)) = others.peek().filter(|other| other.0 < end) {
            if from < other {
                rest.push((from, other));
            }
            from = from.max(other_end);
            if from >= end {
                // It may reach into the next run as well.
                break;
            }
            others.next();
        }
        if from < end {
            rest.push((from, end));
        }
    }
    rest
}
