// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rolls back the steps of a plan after one of them failed.

use std::sync::Arc;

use guest_ranges::PageState;

use super::error::NotConvertedBack;
use super::listener::{Conversion, ConversionListener};
use super::pages::GuestPages;
use super::plan::ConversionPlan;
use super::settle::accept;
use super::switch::{Progress, Steps};
use crate::vm::Vm;

impl<V: Vm> Steps<V> {
    /// Rolls back the steps of one plan. Pages that do not change back are recorded in their new state, and listeners follow.
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
        let from = plan.to.other();
        for (number, stretch) in plan.stretches.iter().enumerate() {
            let restored = match number < progress.changed.stretches {
                true => self.set(stretch, from),
                false => Ok(()),
            };
            match restored {
                Ok(()) => back.push(*stretch),
                Err(why) => {
                    not_undone.pages.add(stretch.range, why);
                    pages.record(stretch.range, plan.to);
                    kept.push(*stretch);
                }
            }
        }
        for &range in &plan.unbacked[..progress.changed.unbacked] {
            if let Err(why) = self.set_without_memory(range, from) {
                not_undone.pages.add(range, why);
                pages.record(range, plan.to);
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
