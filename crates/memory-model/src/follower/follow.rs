// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What differs from one follower to another: its plans, and how they are
//! carried out.

use core::error::Error;

use crate::listener::Update;

/// Carries out plans and undoes them: the part of a [`Follower`](super::Follower) that does not
/// depend on the model's handles.
///
/// [`Follow`] makes the plans.
pub trait ApplyPlan {
    /// What changes from plan to plan: usually a table of what was carried out.
    ///
    /// The follower keeps it behind a lock and hands it to each method. If a
    /// method panics, the next one gets the state as it was at that moment.
    type State;
    /// The steps of a change.
    type Plan;
    /// What it takes to undo a plan. It is dropped when the transaction has
    /// ended, so it can hold whatever has to last until then.
    type Applied;
    /// Why a plan was not made, not carried out or not undone.
    type Error: Error + Send + Sync + 'static;

    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Carries a plan out, or fails and rolls back what it did.
    ///
    /// # Errors
    /// Why not. [`rolled_back`](Self::rolled_back) tells whether all was undone.
    fn apply(
        &self,
        state: &mut Self::State,
        plan: &Self::Plan,
    ) -> Result<Self::Applied, Self::Error>;

    /// Undoes a plan that was carried out.
    ///
    /// # Errors
    /// What could not be undone. The next transaction resyncs.
    fn undo(&self, state: &mut Self::State, applied: Self::Applied) -> Result<(), Self::Error>;

    /// Whether [`apply`](Self::apply), which failed with `error`, has undone all
    /// that it did. If it has not, the next transaction resyncs. By default it
    /// has not.
    fn rolled_back(&self, _error: &Self::Error) -> bool {
        false
    }

    /// Whether to carry `plan` out while the transaction prepares: if no running
    /// guest notices. The plan is then refused before any other listener has
    /// made a change. By default, plans wait until every listener has prepared.
    fn applies_in_prepare(&self, _plan: &Self::Plan) -> bool {
        false
    }
}

/// Plans what a [`Follower`](super::Follower) carries out.
pub trait Follow<H>: ApplyPlan {
    /// Plans a change from what `update` removes and adds; `None` if there is
    /// nothing to do. [`Update::diff`] is empty if only
    /// [`Update::attachments`] or [`Update::global_logging`] differ.
    ///
    /// # Errors
    /// Any error refuses the transaction.
    fn plan_change(
        &self,
        state: &mut Self::State,
        update: &Update<'_, H>,
    ) -> Result<Option<Self::Plan>, Self::Error>;

    /// Plans a resync: from `state` to the whole of [`Update::new`]. What there
    /// is now may differ from [`Update::old`].
    ///
    /// # Errors
    /// Any error refuses the transaction.
    fn plan_resync(
        &self,
        state: &mut Self::State,
        update: &Update<'_, H>,
    ) -> Result<Self::Plan, Self::Error>;
}
