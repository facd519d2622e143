// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a follower does in each stage of a transaction.

use super::Follower;
use super::follow::{ApplyPlan, Follow};
use super::stage::{Progress, Stage};
use crate::error::ListenerError;
use crate::listener::{Listener, Update};

impl<H, F: Follow<H>> Listener<H> for Follower<F>
where
    Self: Send + Sync,
{
    fn name(&self) -> &str {
        self.follow.name()
    }

    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        let progress = &mut *self.progress();
        progress.stage = Stage::Idle;
        let state = &mut progress.state;
        let plan = match progress.needs_resync {
            true => {
                if let Some(cleanup) = self.follow.plan_cleanup(state, update)? {
                    drop(self.carry_out(progress, &cleanup)?);
                }
                let state = &mut progress.state;
                self.follow.plan_resync(state, update).map(Some)
            }
            false => self.follow.plan_change(state, update),
        };
        match plan? {
            None => Ok(()),
            Some(plan) if self.follow.applies_in_prepare(&plan) => {
                Ok(self.apply_planned(progress, plan)?)
            }
            Some(plan) => {
                progress.stage = Stage::Prepared(plan);
                Ok(())
            }
        }
    }

    fn apply(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        let progress = &mut *self.progress();
        match progress.stage.take() {
            Stage::Prepared(plan) => Ok(self.apply_planned(progress, plan)?),
            stage => {
                progress.stage = stage;
                Ok(())
            }
        }
    }

    fn commit(&self, _update: &Update<'_, H>) {
        let progress = &mut *self.progress();
        if let Stage::Applied { plan, .. } = progress.stage.take() {
            self.keep(progress, plan);
        }
    }

    fn abort(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        let progress = &mut *self.progress();
        let Stage::Applied {
            applied,
            needed_resync,
            ..
        } = progress.stage.take()
        else {
            return Ok(());
        };
        // As in `carry_out`; something may have required a resync meanwhile.
        let needed_resync = core::mem::replace(&mut progress.needs_resync, true) || needed_resync;
        let undone = self.follow.undo(&mut progress.state, applied);
        progress.needs_resync = needed_resync || undone.is_err();
        Ok(undone?)
    }
}

impl<F: ApplyPlan> Follower<F> {
    /// Carries out the plan of a transaction.
    fn apply_planned(&self, progress: &mut Progress<F>, plan: F::Plan) -> Result<(), F::Error> {
        let needed_resync = progress.needs_resync;
        let applied = self.carry_out(progress, &plan)?;
        progress.needs_resync = false;
        progress.stage = Stage::Applied {
            applied,
            plan,
            needed_resync,
        };
        Ok(())
    }
}
