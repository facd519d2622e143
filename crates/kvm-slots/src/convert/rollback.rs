// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rolls back the steps of a plan after one of them failed.

use std::sync::Arc;

use guest_ranges::PageState;

use super::error::{NotChanged, NotConvertedBack};
use super::listener::{Conversion, ConversionListener};
use super::pages::GuestPages;
use super::panics::Panics;
use super::plan::ConversionPlan;
use super::settle::accept;
use super::switch::{Progress, Steps};
use crate::vm::Vm;

/// What a rollback could not undo.
#[derive(Default)]
pub(super) struct Leftover {
    pub(super) not_undone: NotConvertedBack,
    pub(super) panics: Panics,
}

impl<V: Vm> Steps<V> {
    /// Rolls back the steps of one plan. Pages that do not change back are recorded in
    /// their new state, and listeners follow.
    pub(super) fn roll_back(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        progress: Progress,
        leftover: &mut Leftover,
    ) {
        let prepared = &self.listeners[..progress.prepared];
        // Devices leave before the guest's pages become private again.
        let mut stuck = Vec::new();
        if plan.to == PageState::Shared {
            let change = Conversion::of(plan.to, &plan.stretches, &plan.unbacked);
            stuck = abort(prepared, change, leftover);
        }
        let (mut back, mut kept, mut kept_unbacked) = (Vec::new(), Vec::new(), Vec::new());
        let from = plan.to.other();
        for (number, stretch) in plan.stretches.iter().enumerate() {
            let restored = match number < progress.changed.stretches {
                true => leftover.restore(&stuck, || self.set(stretch, from)),
                false => Ok(()),
            };
            match restored {
                Ok(()) => back.push(*stretch),
                Err(why) => {
                    leftover.not_undone.pages.add(stretch.range, why);
                    pages.record(stretch.range, plan.to);
                    kept.push(*stretch);
                }
            }
        }
        for &range in &plan.unbacked[..progress.changed.unbacked] {
            let restored = leftover.restore(&stuck, || self.set_without_memory(range, from));
            if let Err(why) = restored {
                leftover.not_undone.pages.add(range, why);
                pages.record(range, plan.to);
                kept_unbacked.push(range);
            }
        }
        if plan.to == PageState::Private {
            abort(prepared, Conversion::of(plan.to, &back, &[]), leftover);
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
            let followed = leftover.panics.catch(|| {
                if plan.to == PageState::Shared {
                    listener.prepare(&change)?;
                }
                listener.commit(&change);
                Ok(())
            });
            if !matches!(followed, Some(Ok(()))) {
                leftover.panics.catch(|| listener.must_resync());
            }
            if let Some(Err(error)) = followed {
                leftover.not_undone.add_listener(listener.name(), error);
            }
        }
    }
}

impl Leftover {
    /// Changes pages back, unless a listener still has them: a device could reach them
    /// when they are private.
    fn restore(
        &mut self,
        stuck: &[usize],
        restore: impl FnOnce() -> Result<(), NotChanged>,
    ) -> Result<(), NotChanged> {
        match stuck {
            [] => self
                .panics
                .catch(restore)
                .unwrap_or(Err(NotChanged::NotReleased)),
            _ => Err(NotChanged::NotReleased),
        }
    }
}

/// Aborts listeners, the last one first. Returns the numbers of listeners that
/// failed.
fn abort(
    prepared: &[Arc<dyn ConversionListener>],
    change: Option<Conversion<'_>>,
    leftover: &mut Leftover,
) -> Vec<usize> {
    let mut stuck = Vec::new();
    let Some(change) = change else { return stuck };
    for (number, listener) in prepared.iter().enumerate().rev() {
        let aborted = leftover.panics.catch(|| listener.abort(&change));
        if let Some(Ok(())) = aborted {
            continue;
        }
        stuck.push(number);
        if let Some(Err(error)) = aborted {
            leftover.not_undone.add_listener(listener.name(), error);
        }
    }
    stuck
}
