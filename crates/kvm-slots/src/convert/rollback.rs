// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rolls back the steps of a plan after one of them failed.

use std::sync::Arc;

use guest_ranges::{PageRange, PageState};

use super::error::NotConvertedBack;
use super::listener::{Conversion, ConversionListener};
use super::pages::GuestPages;
use super::plan::ConversionPlan;
use super::settle::accept;
use super::switch::{Progress, Steps};
use crate::vm::Vm;

impl<V: Vm> Steps<V> {
    /// Rolls back the steps of one plan. Pages that KVM does not change back are
    /// recorded in their new state, and listeners follow.
    pub(super) fn roll_back(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        progress: Progress,
        not_undone: &mut NotConvertedBack,
    ) {
        let prepared = &self.listeners[..progress.prepared];
        // Devices leave before the guest's pages become private again.
        let mut stuck = Vec::new();
        if plan.to == PageState::Shared {
            let change = Conversion::of(plan.to, &plan.stretches, &plan.unbacked);
            stuck = abort(prepared, change, not_undone);
        }
        let (mut back, mut kept, mut kept_unbacked) = (Vec::new(), Vec::new(), Vec::new());
        for stretch in &plan.stretches {
            match self.restore_attributes(pages, stretch.range, plan.to, progress, not_undone) {
                true => back.push(*stretch),
                false => kept.push(*stretch),
            }
        }
        for &range in &plan.unbacked {
            if !self.restore_attributes(pages, range, plan.to, progress, not_undone) {
                kept_unbacked.push(range);
            }
        }
        if plan.to == PageState::Private {
            abort(prepared, Conversion::of(plan.to, &back, &[]), not_undone);
        }
        accept(pages, plan.to, &kept);
        let Some(change) = Conversion::of(plan.to, &kept, &kept_unbacked) else {
            return;
        };
        for (number, listener) in self.listeners.iter().enumerate() {
            // A listener that could not abort still has these pages.
            if stuck.contains(&number) {
                continue;
            }
            let prepared = match plan.to {
                PageState::Private => Ok(()),
                PageState::Shared => listener.prepare(&change),
            };
            match prepared {
                Ok(()) => listener.commit(&change),
                Err(error) => not_undone.add_listener(listener.name(), error),
            }
        }
    }

    /// Restores the attributes. Returns whether the pages have their old state.
    fn restore_attributes(
        &self,
        pages: &mut impl GuestPages,
        range: PageRange,
        to: PageState,
        progress: Progress,
        not_undone: &mut NotConvertedBack,
    ) -> bool {
        if !progress.attributes {
            return true;
        }
        let Err(errno) = self.set_attributes(range, to.other()) else {
            return true;
        };
        not_undone.attributes.add(range, errno);
        pages.record(range, to);
        false
    }
}

/// Aborts listeners, the last one first. Returns the numbers of listeners that
/// failed.
fn abort(
    prepared: &[Arc<dyn ConversionListener>],
    change: Option<Conversion<'_>>,
    not_undone: &mut NotConvertedBack,
) -> Vec<usize> {
    let mut stuck = Vec::new();
    let Some(change) = change else { return stuck };
    for (number, listener) in prepared.iter().enumerate().rev() {
        if let Err(error) = listener.abort(&change) {
            not_undone.add_listener(listener.name(), error);
            stuck.push(number);
        }
    }
    stuck
}
