// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks whether every page of a request can change as it asks.

use guest_ranges::{PageRange, PageState};

use super::pages::GuestPages;
use super::request::{Request, RequestError};
use super::sides::{Sides, Stretch};
use crate::unsupported::Unsupported;

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

/// Checks that a range consists of whole pages of the host: KVM has no smaller
/// pages.
pub(super) fn host_pages(range: PageRange, page_size: u64) -> Result<(), RequestError> {
    let whole = |n: u64| n % page_size == 0;
    let (gpa, size) = (range.start(), range.size());
    match whole(gpa) && whole(size) {
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
