// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks whether every page of a request can change to the requested state.

use guest_ranges::{PageRange, PageSize, PageState};

use super::pages::GuestPages;
use super::request::{Request, RequestError, Source};
use super::sides::{Sides, Stretch};
use crate::unsupported::Unsupported;

/// The reason why a request was refused. Nothing has changed. A guest can cause each
/// of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A page cannot be private: it has no memory, or memory without a private side.
    #[error("{range} cannot become private: at {at:#x} is nothing with a private side")]
    NoPrivateSide {
        /// The whole requested range.
        range: PageRange,
        /// The first such page.
        at: u64,
    },
    /// A page cannot be shared: it has only a guest_memfd.
    #[error("{range} cannot become shared: at {at:#x} is nothing with a shared side")]
    NoSharedSide {
        /// The whole requested range.
        range: PageRange,
        /// The first such page.
        at: u64,
    },
    /// The state of private pages could exceed its limit: [`GuestPages::has_room`].
    #[error("{range} cannot become private too: the state of the pages is at its limit")]
    NoRoom {
        /// The whole requested range.
        range: PageRange,
    },
    /// The guest accepts a page that is not private MMIO.
    #[error("{range} cannot be accepted: at {at:#x} is no private MMIO")]
    NotPrivateMmio {
        /// The whole requested range.
        range: PageRange,
        /// The first such page.
        at: u64,
    },
}

/// Checks whether every page of the request can change. The cost depends on the
/// number of pieces of memory in the range, not on the number of pages.
pub(super) fn check(pages: &impl GuestPages, request: Request) -> Result<(), Refusal> {
    let Request { range, to, source } = request;
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
    let mmio_only = source == Source::Acceptance;
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

/// Checks that a range consists of whole pages of the host: KVM has no smaller
/// pages.
pub(super) fn host_pages(range: PageRange, page_size: PageSize) -> Result<(), RequestError> {
    let (gpa, size) = (range.start(), range.size());
    match range.is_whole(page_size) {
        true => Ok(()),
        false => Err(RequestError::Unaligned { gpa, size }),
    }
}

/// Checks that a VM without private pages is asked for none. Its guest can still
/// accept private MMIO.
pub(super) fn without_private_pages(
    pages: &impl GuestPages,
    request: Request,
) -> Result<(), Unsupported> {
    if request.to() == PageState::Shared {
        return Ok(());
    }
    let mut memory = pages.memory(request.range());
    match memory.all(|stretch| stretch.sides == Sides::PrivateMmio) {
        true => Ok(()),
        false => Err(Unsupported::NoPrivatePages),
    }
}
