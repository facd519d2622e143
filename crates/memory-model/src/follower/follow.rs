// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The traits that a follower's type implements: making plans, and carrying them out.

use core::error::Error;

use crate::listener::Update;

/// Carries out plans and undoes them: the part of a [`Follower`](super::Follower) that does not
/// depend on the model's handles.
///
/// [`Follow`] makes the plans.
pub trait ApplyPlan {
    /// The state that plans change: usually a table of what was carried out.
    ///
    /// The follower keeps it behind a lock and passes it to each method. If a
    /// method panics, the next one gets the state as the panic left it.
    type State;
    /// The steps of a change.
    type Plan;
    /// What is needed to undo a plan. The follower drops it when the transaction
    /// ends, so it can own what must live until then.
    type Applied;
    /// Why a plan was not made, not carried out or not undone.
    type Error: Error + Send + Sync + 'static;

    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Carries a plan out, or fails and rolls back what it did.
    ///
    /// # Errors
    /// Why the plan failed. [`rolled_back`](Self::rolled_back) says whether all of it
    /// was undone.
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

    /// Whether [`apply`](Self::apply), which failed with `error`, has undone
    /// everything. If not, the next transaction resyncs. The default is `false`.
    fn rolled_back(&self, _error: &Self::Error) -> bool {
        false
    }

    /// Whether to carry `plan` out while the transaction prepares, because a running
    /// guest does not notice it. A failure then refuses the transaction before any
    /// other listener has made a change. By default, plans wait until every listener
    /// has prepared.
    fn applies_in_prepare(&self, _plan: &Self::Plan) -> bool {
        false
    }
}

/// Plans what a [`Follower`](super::Follower) carries out.
pub trait Follow<H>: ApplyPlan {
    /// Plans a change from what `update` removes and adds. `None` means that there is
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

    /// Plans the removal of what a failed rollback has left: everything in `state` that
    /// [`Update::old`] does not have. `None`, the default, means that there is nothing
    /// to remove.
    ///
    /// A transaction that resyncs does this first, while it prepares. It is not undone if
    /// the transaction is refused. So no listener that makes its change in `prepare` meets
    /// leftovers of one with a lower priority, and no undo restores them.
    ///
    /// # Errors
    /// Any error refuses the transaction.
    fn plan_cleanup(
        &self,
        _state: &mut Self::State,
        _update: &Update<'_, H>,
    ) -> Result<Option<Self::Plan>, Self::Error> {
        Ok(None)
    }

    /// Plans a resync from `state` to the whole of [`Update::new`]. `state` may
    /// differ from [`Update::old`].
    ///
    /// # Errors
    /// Any error refuses the transaction.
    fn plan_resync(
        &self,
        state: &mut Self::State,
        update: &Update<'_, H>,
    ) -> Result<Self::Plan, Self::Error>;
}
