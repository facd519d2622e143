// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps of a plan that need no rollback: discards, records and commits.

use guest_ranges::PageState;

use super::error::Converted;
use super::listener::Conversion;
use super::pages::GuestPages;
use super::panics::Panics;
use super::plan::ConversionPlan;
use super::sides::{Sides, Stretch};
use super::switch::Steps;
use crate::vm::Vm;

impl<V: Vm> Steps<V> {
    /// Discards stale bytes, records the new states, and notifies listeners. A failure
    /// here needs no rollback.
    pub(super) fn settle(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        converted: &mut Converted,
        panics: &mut Panics,
    ) {
        for (range, discard) in plan.discards() {
            // SAFETY: `GuestPages` guarantees the memory and the files of its
            // stretches. Their bytes are stale: the guest has the other side of
            // these pages now, and no device has this side.
            if let Err(errno) = unsafe { self.vm.discard(discard) } {
                converted.not_discarded.add(range, errno);
            }
        }
        for range in plan.changes() {
            pages.record(range, plan.to);
            converted.bytes += range.size();
        }
        accept(pages, plan.to, &plan.stretches);
        let Some(change) = Conversion::of(plan.to, &plan.stretches, &plan.unbacked) else {
            return;
        };
        for listener in &self.listeners {
            panics.catch(|| listener.commit(&change));
        }
    }
}

/// Records that private MMIO is accepted if it has become private.
pub(super) fn accept(pages: &mut impl GuestPages, to: PageState, stretches: &[Stretch]) {
    let registers = stretches.iter().filter(|s| s.sides == Sides::PrivateMmio);
    for stretch in registers.filter(|_| to == PageState::Private) {
        pages.accept(stretch.range);
    }
}
