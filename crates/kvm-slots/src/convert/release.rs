// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls listeners, and proves that they have released pages.

use std::sync::Arc;

use guest_ranges::PageState;

use super::error::FailedStep;
use super::listener::{Conversion, ConversionListener};
use super::plan::ConversionPlan;
use super::rollback::Leftover;
use super::switch::Progress;

/// Proof that no listener has the pages of a plan, so that they can become private. Only
/// this module makes one: after all listeners have prepared for private pages, or aborted
/// shared ones.
pub(super) struct Unmapped(());

impl Unmapped {
    /// For pages that are recorded as private: all listeners released them before they
    /// became so, and have not been given them since.
    pub(super) fn as_recorded() -> Self {
        Self(())
    }
}

/// A state that pages can change to now.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Private(#[expect(dead_code, reason = "a proof has nothing to read")] &'a Unmapped),
    Shared,
}

impl Target<'_> {
    pub(super) fn state(self) -> PageState {
        match self {
            Self::Private(_) => PageState::Private,
            Self::Shared => PageState::Shared,
        }
    }
}

/// Has all listeners release the pages of a plan, which become private.
pub(super) fn unmap(
    listeners: &[Arc<dyn ConversionListener>],
    plan: &ConversionPlan,
    progress: &mut Progress,
) -> Result<Unmapped, FailedStep> {
    prepare(listeners, plan, progress)?;
    Ok(Unmapped(()))
}

/// Has all listeners prepare, in their order.
pub(super) fn prepare(
    listeners: &[Arc<dyn ConversionListener>],
    plan: &ConversionPlan,
    progress: &mut Progress,
) -> Result<(), FailedStep> {
    let Some(change) = Conversion::of(plan.to, &plan.stretches, &plan.unbacked) else {
        return Ok(());
    };
    for listener in listeners {
        // One that panics may have made a part of the change.
        progress.prepared += 1;
        if let Err(source) = listener.prepare(&change) {
            if listener.rolled_back(&source) {
                progress.prepared -= 1;
            }
            return Err(FailedStep::Listener {
                name: listener.name().to_string(),
                source,
            });
        }
    }
    Ok(())
}

/// Aborts listeners, the last one first. Returns the numbers of those that failed. If none
/// did, they have released pages that were to become shared.
pub(super) fn abort(
    prepared: &[Arc<dyn ConversionListener>],
    change: Option<Conversion<'_>>,
    leftover: &mut Leftover,
) -> Result<Unmapped, Vec<usize>> {
    let Some(change) = change else {
        return Ok(Unmapped(()));
    };
    let mut stuck = Vec::new();
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
    match stuck.is_empty() && change.to == PageState::Shared {
        true => Ok(Unmapped(())),
        false => Err(stuck),
    }
}
