// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state that a follower keeps behind its lock.

use super::follow::ApplyPlan;

/// What has been carried out, and the stage of the current transaction.
pub(super) struct Progress<F: ApplyPlan> {
    pub(super) state: F::State,
    pub(super) stage: Stage<F::Plan, F::Applied>,
    pub(super) latest: Option<F::Plan>,
    /// `state` may differ from the published view.
    pub(super) needs_resync: bool,
}

/// The stage of a transaction.
#[derive(Debug)]
pub(super) enum Stage<P, A> {
    /// No transaction, or one in which there is nothing to do.
    Idle,
    /// Planned; nothing has changed.
    Prepared(P),
    /// Carried out.
    Applied {
        applied: A,
        plan: P,
        /// Whether a resync was needed before.
        needed_resync: bool,
    },
}

impl<P, A> Stage<P, A> {
    pub(super) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::Idle)
    }
}
