// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rolls back the steps of a plan after one of them failed.

use guest_ranges::PageState;

use super::error::{NotChanged, NotConvertedBack};
use super::listener::Conversion;
use super::pages::GuestPages;
use super::panics::Panics;
use super::plan::ConversionPlan;
use super::release::{Target, abort};
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
        let released = match plan.to {
            PageState::Shared => {
                let change = Conversion::of(plan.to, &plan.stretches, &plan.unbacked);
                Some(abort(prepared, change, leftover))
            }
            PageState::Private => None,
        };
        let (back_to, stuck) = match &released {
            None => (Some(Target::Shared), &[][..]),
            Some(Ok(unmapped)) => (Some(Target::Private(unmapped)), &[][..]),
            Some(Err(stuck)) => (None, stuck.as_slice()),
        };
        let (mut back, mut kept, mut kept_unbacked) = (Vec::new(), Vec::new(), Vec::new());
        for (number, stretch) in plan.stretches.iter().enumerate() {
            let restored = match number < progress.changed.stretches {
                true => restore(back_to, &mut leftover.panics, |to| self.set(stretch, to)),
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
            let restored = restore(back_to, &mut leftover.panics, |to| {
                self.set_without_memory(range, to)
            });
            if let Err(why) = restored {
                leftover.not_undone.pages.add(range, why);
                pages.record(range, plan.to);
                kept_unbacked.push(range);
            }
        }
        if plan.to == PageState::Private {
            // The error lists those that fail.
            let _ = abort(prepared, Conversion::of(plan.to, &back, &[]), leftover);
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

/// Changes pages back. They stay as they are without a state to change them to: a
/// listener still has them, and a device could reach them when they are private.
fn restore(
    back_to: Option<Target<'_>>,
    panics: &mut Panics,
    set: impl FnOnce(Target<'_>) -> Result<(), NotChanged>,
) -> Result<(), NotChanged> {
    let not_released = Err(NotChanged::NotReleased);
    match back_to {
        Some(to) => panics.catch(|| set(to)).unwrap_or(not_released),
        None => not_released,
    }
}
