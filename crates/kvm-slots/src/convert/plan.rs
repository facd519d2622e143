// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a request to what has to be done for it: a pure function.

use super::pages::GuestPages;
use super::request::Request;
use super::sides::{Discard, Sides, Stretch};
use guest_ranges::PageRange;
use guest_ranges::PageState;

/// The most stretches of one plan. A guest that has alternated its pages would
/// otherwise make a plan as large as its memory.
const MAX_STRETCHES: usize = 4096;

/// What one request, or the part of it that fits, comes to: pages that change
/// and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConversionPlan {
    /// What the pages become.
    pub to: PageState,
    /// The pages that change and have memory, by address. What lies next to
    /// each other on both sides is one stretch.
    pub stretches: Vec<Stretch>,
    /// Where bytes become stale: the stretches. To shared, they are joined across
    /// pages that have changed before: nobody can have written to the private
    /// side of those, and one call frees it all. To private they are not, as
    /// the host may store to the shared side of a private page at any time.
    pub stale: Vec<Stretch>,
    /// The pages that become shared and have no memory with a private side now:
    /// it was taken away while they were private.
    pub unbacked: Vec<PageRange>,
    /// What of the request this plan does not reach.
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

    /// From the first page that changes to the last: one call of
    /// `KVM_SET_MEMORY_ATTRIBUTES` is enough, since what lies between is in the
    /// wanted state.
    pub fn span(&self) -> Option<PageRange> {
        let start = self.changes().map(PageRange::start).min()?;
        let end = self.changes().map(PageRange::end).max()?;
        PageRange::between(start, end)
    }

    /// The bytes to discard, and the pages whose bytes they were.
    pub fn discards(&self) -> impl Iterator<Item = (PageRange, Discard)> + '_ {
        let stale = |s: &Stretch| Some((s.range, s.stale(self.to)?));
        self.stale.iter().filter_map(stale)
    }
}

/// Why a request was refused. Nothing has changed. A guest can bring any of
/// these about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Some page cannot be private: nothing is there, or memory without a
    /// private side.
    #[error("{range} cannot become private: at {at:#x} is nothing with a private side")]
    NoPrivateSide {
        /// The whole range asked for.
        range: PageRange,
        /// The first page that cannot.
        at: u64,
    },
    /// Some page cannot be shared: only a guest_memfd is there.
    #[error("{range} cannot become shared: at {at:#x} is nothing with a shared side")]
    NoSharedSide {
        /// The whole range asked for.
        range: PageRange,
        /// The first page that cannot.
        at: u64,
    },
    /// So many pages would be private, there or elsewhere, that what is written
    /// down of them could outgrow its limit: [`GuestPages::has_room`].
    #[error("{range} cannot become private too: the state of the pages is at its limit")]
    NoRoom {
        /// The whole range asked for.
        range: PageRange,
    },
    /// Some page that was to be accepted is not private MMIO.
    #[error("{range} cannot be accepted: at {at:#x} is no private MMIO")]
    NotPrivateMmio {
        /// The whole range asked for.
        range: PageRange,
        /// The first page that is not.
        at: u64,
    },
}

/// Plans `request`, or as much of it as fits into one plan.
///
/// # Errors
/// [`Refusal`] if any page of the request cannot be as it asks, even one that
/// this plan would not reach.
pub fn plan_conversion(
    pages: &impl GuestPages,
    request: Request,
) -> Result<ConversionPlan, Refusal> {
    check(pages, request)?;
    Ok(part(pages, request.range, request.to))
}

/// Whether every page of the request can be as it asks. It costs what there is
/// of memory in the range, and not what there is of pages.
pub(super) fn check(pages: &impl GuestPages, request: Request) -> Result<(), Refusal> {
    let Request {
        range,
        to,
        mmio_only,
    } = request;
    if to == PageState::Shared {
        let bad = |s: &Stretch| matches!(s.sides, Sides::PrivateOnly { .. });
        return match pages.memory(range).find(bad) {
            Some(stretch) => {
                let at = stretch.range.start().max(range.start());
                Err(Refusal::NoSharedSide { range, at })
            }
            None => Ok(()),
        };
    }
    let mut at = range.start();
    for stretch in pages.memory(range) {
        let fits = !mmio_only || stretch.sides == Sides::PrivateMmio;
        if !fits || stretch.range.start() > at {
            break;
        }
        at = stretch.range.end();
    }
    match at >= range.end() {
        true if pages.has_room(range) => Ok(()),
        true => Err(Refusal::NoRoom { range }),
        false if mmio_only => Err(Refusal::NotPrivateMmio { range, at }),
        false => Err(Refusal::NoPrivateSide { range, at }),
    }
}

/// The plan for the beginning of `range`, which was checked.
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

/// Adds what changes, until the plan is full.
fn add_all(
    plan: &mut ConversionPlan,
    pages: &impl GuestPages,
    range: PageRange,
    changes: impl Iterator<Item = PageRange>,
) {
    let mut memory = pages.memory(range).peekable();
    let only_stale_between = plan.to == PageState::Shared;
    // Whether the latest stretch was of the memory that is next.
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
                // Nothing is there up to the next memory, or to the end.
                next => {
                    let end = next.map_or(left.end(), |m| m.range.start());
                    plan.unbacked.extend(PageRange::between(at, end));
                    end
                }
            };
        }
    }
}

/// Adds a stretch: to the one before it if the two lie side by side, or if
/// what lies between is known to be the same memory.
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
