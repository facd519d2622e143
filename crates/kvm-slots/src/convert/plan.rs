// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans a conversion: a pure function of a request and the pages.

use super::check::{Refusal, check};
use super::pages::GuestPages;
use super::request::Request;
use super::sides::Stretch;
use crate::vm::discard::Discard;
use guest_ranges::PageRange;
use guest_ranges::PageState;

/// The maximum number of stretches of one plan. Otherwise a guest that alternates
/// its pages could make a plan as large as its memory.
const MAX_STRETCHES: usize = 4096;

/// The pages that change for a request, or for the part of it that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConversionPlan {
    /// The new state of the pages.
    pub to: PageState,
    /// The pages that change and have memory, by address. Pages that are adjacent on
    /// both sides are one stretch.
    pub stretches: Vec<Stretch>,
    /// The stretches whose bytes become stale. To shared, stretches are joined across
    /// pages that are already shared: no one can have written to their private
    /// side, and one call frees all of them. To private, stretches are not joined,
    /// because the host may store to the shared side of a private page at any time.
    pub stale: Vec<Stretch>,
    /// The pages that become shared and have no memory with a private side: it was
    /// removed while they were private.
    pub unbacked: Vec<PageRange>,
    /// The rest of the request, for a later plan.
    pub rest: Option<PageRange>,
}

impl ConversionPlan {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty() && self.unbacked.is_empty()
    }

    /// The pages that change, by address within each kind.
    pub fn changes(&self) -> impl Iterator<Item = PageRange> + '_ {
        let stretches = self.stretches.iter().map(|stretch| stretch.range);
        stretches.chain(self.unbacked.iter().copied())
    }

    /// The bytes to discard, with their pages.
    pub fn discards(&self) -> impl Iterator<Item = (PageRange, Discard)> + '_ {
        let stale = |s: &Stretch| Some((s.range, s.stale(self.to)?));
        self.stale.iter().filter_map(stale)
    }
}

/// Plans `request`, or the first part of it if it does not fit into one plan.
///
/// # Errors
/// [`Refusal`] if any page of the request cannot change, even one in a later part.
pub fn plan_conversion(
    pages: &impl GuestPages,
    request: Request,
) -> Result<ConversionPlan, Refusal> {
    check(pages, request)?;
    Ok(part(pages, request.range, request.to))
}

/// Plans the first part of `range`, which was checked.
pub(super) fn part(pages: &impl GuestPages, range: PageRange, to: PageState) -> ConversionPlan {
    let mut plan = ConversionPlan {
        to,
        stretches: Vec::new(),
        stale: Vec::new(),
        unbacked: Vec::new(),
        rest: None,
    };
    match to {
        PageState::Shared => add_all(&mut plan, pages, range, pages.private(range)),
        PageState::Private => add_all(&mut plan, pages, range, shared(pages, range)),
    }
    plan
}

/// The pages of `range` that are not private.
fn shared(pages: &impl GuestPages, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
    let mut private = pages.private(range);
    let mut at = Some(range.start());
    std::iter::from_fn(move || {
        loop {
            let start = at?;
            let end = match private.next() {
                Some(private) => {
                    at = Some(private.end());
                    private.start()
                }
                None => {
                    at = None;
                    range.end()
                }
            };
            if let Some(gap) = PageRange::between(start, end) {
                return Some(gap);
            }
        }
    })
}

/// Adds the pages that change, until the plan is full.
fn add_all(
    plan: &mut ConversionPlan,
    pages: &impl GuestPages,
    range: PageRange,
    changes: impl Iterator<Item = PageRange>,
) {
    let mut memory = pages.memory(range).peekable();
    let only_stale_between = plan.to == PageState::Shared;
    // Whether the previous stretch was in the next memory.
    let mut same_memory = false;
    for change in changes {
        let mut at = change.start();
        while let Some(left) = PageRange::between(at, change.end()) {
            if plan.stretches.len() + plan.unbacked.len() >= MAX_STRETCHES {
                plan.rest = PageRange::between(at, range.end());
                return;
            }
            while memory.next_if(|m| m.range.end() <= at).is_some() {
                same_memory = false;
            }
            let here = memory.peek().and_then(|m| m.within(left));
            at = match here {
                Some(stretch) if stretch.range.start() == at => {
                    join(&mut plan.stretches, stretch, false);
                    join(&mut plan.stale, stretch, same_memory && only_stale_between);
                    same_memory = true;
                    stretch.range.end()
                }
                // There is no memory up to the next one, or up to the end.
                next => {
                    let end = next.map_or(left.end(), |m| m.range.start());
                    plan.unbacked.extend(PageRange::between(at, end));
                    end
                }
            };
        }
    }
}

/// Adds a stretch. It is joined with the previous one if both are adjacent, or if
/// the pages between are known to be the same memory.
fn join(stretches: &mut Vec<Stretch>, stretch: Stretch, same_memory: bool) {
    if let Some(last) = stretches.last_mut() {
        let distance = stretch.range.start() - last.range.start();
        let adjacent = last.range.end() == stretch.range.start();
        if same_memory || (adjacent && last.sides.advanced(distance) == stretch.sides) {
            let joined = PageRange::between(last.range.start(), stretch.range.end());
            last.range = joined.unwrap_or(last.range);
            return;
        }
    } else {
        // Most requests are about one stretch: no list grows for it.
        *stretches = Vec::with_capacity(4);
    }
    stretches.push(stretch);
}
