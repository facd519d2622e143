// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the outcome of a step makes of a TDI.

use crate::tdi::{
    Dma, Event, Goal, Obstacle, Outcome, Progress, Step, Tdi, TdiError, TdiState, TearDown, Ticket,
    UnderWay, Until,
};

impl Tdi {
    /// Records the outcome of the step that is under way.
    ///
    /// # Errors
    ///
    /// [`TdiError::NotUnderWay`] if the ticket is another TDI's, or if the step was
    /// [lost](Self::lost).
    pub fn answered(&mut self, ticket: Ticket, outcome: Outcome) -> Result<Progress, TdiError> {
        let is_awaited = |under_way: &UnderWay| {
            let is_ours = ticket.generation.id == self.id && under_way.ticket == ticket.number;
            is_ours && under_way.step == ticket.step
        };
        match self.under_way.filter(is_awaited) {
            Some(under_way) => Ok(self.settle(under_way, outcome)),
            None => Err(TdiError::NotUnderWay {
                id: self.id,
                step: ticket.step,
            }),
        }
    }

    /// Records that the step under way will never be answered, for example because the thread that had
    /// its ticket has ended. Its outcome is unknown. Without a step under way nothing changes.
    pub fn lost(&mut self) -> Progress {
        match self.under_way {
            Some(under_way) => self.settle(under_way, Outcome::Unknown),
            None => self.progress(),
        }
    }

    fn settle(&mut self, under_way: UnderWay, outcome: Outcome) -> Progress {
        let UnderWay {
            step, overtaken, ..
        } = under_way;
        self.under_way = None;
        let mut keeps = false;
        match step {
            Step::Lock | Step::Start | Step::Stop | Step::Reset => {
                self.state = self.state_after(step, outcome, overtaken);
            }
            Step::FetchReport => {}
            Step::AllowDma | Step::BlockDma => self.dma = self.dma_after(step, outcome, overtaken),
            Step::Offer(_) | Step::Map(_) => {
                let is_wanted = matches!(self.goal, Some(Goal::Start | Goal::Accept));
                self.mappings.forward_answered(step, outcome, is_wanted);
            }
            Step::Unmap(_) | Step::Revoke(_) => {
                let may_keep = !matches!(self.goal, Some(Goal::TearDown(t)) if t.is_forced);
                keeps = self.mappings.back_answered(step, outcome, may_keep);
            }
        }
        if step == Step::Reset && outcome == Outcome::Unknown && self.dma == Dma::Allowed {
            self.dma = Dma::Unknown;
        }
        if step == Step::BlockDma {
            self.change_tear_down(|tear_down| tear_down.blocks_dma = false);
        }
        match outcome {
            Outcome::Succeeded => self.go_on(step),
            _ => self.turn_back(step, outcome, keeps),
        }
        self.progress()
    }

    /// The state after a step that changes it.
    fn state_after(&self, step: Step, outcome: Outcome, overtaken: Option<Event>) -> TdiState {
        match (step, overtaken, outcome) {
            // The device is not there to be in another state.
            (_, Some(Event::Removed), _) => TdiState::Removed,
            // Whether the lock came before the event or after it is not known.
            (Step::Lock, Some(Event::Reset), Outcome::Failed) => self.state,
            (Step::Lock, Some(_), _) => TdiState::Unknown,
            // An interface that is not locked cannot be started, and one in ERROR cannot either.
            (Step::Start, Some(_), _) => self.state,
            // Unlocked, in whichever order.
            (Step::Stop | Step::Reset, Some(Event::Reset), _) => self.state,
            (_, _, Outcome::Failed) => self.state,
            (_, _, Outcome::Unknown) => TdiState::Unknown,
            (Step::Lock, None, Outcome::Succeeded) => TdiState::Locked,
            (Step::Start, None, Outcome::Succeeded) => TdiState::Running,
            (_, _, Outcome::Succeeded) => TdiState::Unlocked,
        }
    }

    /// The access to memory after a step that changes it.
    fn dma_after(&self, step: Step, outcome: Outcome, overtaken: Option<Event>) -> Dma {
        match (step, overtaken, outcome) {
            // The platform allows an unlocked interface no access.
            (_, Some(Event::Reset), _) | (_, _, Outcome::Failed) => self.dma,
            (_, _, Outcome::Unknown) => Dma::Unknown,
            (Step::AllowDma, _, Outcome::Succeeded) => Dma::Allowed,
            (_, _, Outcome::Succeeded) => Dma::Blocked,
        }
    }

    /// What follows a step that succeeded.
    fn go_on(&mut self, step: Step) {
        match (self.goal, step) {
            (Some(Goal::Lock | Goal::Report), Step::FetchReport) => self.goal = None,
            (Some(Goal::TearDown(_)), Step::Stop) => self.end_tear_down(),
            (_, Step::Reset) => {
                self.mappings.platform_dropped_all(None);
                self.dma = Dma::Blocked;
                // What failed before the reset does not matter any more.
                self.obstacle = None;
                self.end_tear_down();
            }
            _ => {}
        }
    }

    /// What follows a step that failed or whose outcome is unknown: which steps are to be undone. `keeps`
    /// is whether a mapping is confirmed as before.
    fn turn_back(&mut self, step: Step, outcome: Outcome, keeps: bool) {
        self.obstacle.get_or_insert(Obstacle::Step(step, outcome));
        match (self.goal, step) {
            (Some(Goal::Lock), Step::FetchReport)
            | (Some(Goal::Start), Step::AllowDma | Step::Offer(_) | Step::Map(_)) => {
                self.mappings.send_back(None);
                self.undo(Until::Unlocked, true);
            }
            (Some(Goal::Accept), _) => {
                self.mappings.send_new_back();
                self.undo(Until::Released, false);
            }
            (Some(Goal::Lock | Goal::Report | Goal::Start), _) => {
                // No mapping was offered yet.
                self.mappings.send_new_back();
                self.goal = None;
            }
            (Some(Goal::TearDown(_)), Step::Unmap(_)) if keeps => {
                self.mappings.keep_mapped();
                self.end_tear_down();
            }
            (Some(Goal::TearDown(tear_down)), Step::BlockDma)
                if outcome == Outcome::Failed && !tear_down.is_forced =>
            {
                self.end_tear_down();
            }
            (Some(Goal::TearDown(_)), Step::Stop | Step::Reset) => self.end_tear_down(),
            _ => {}
        }
    }

    /// Undoes a request, whatever fails on the way.
    fn undo(&mut self, until: Until, blocks_dma: bool) {
        self.goal = Some(Goal::TearDown(TearDown {
            until,
            is_forced: true,
            blocks_dma,
        }));
    }

    /// Ends a tear-down, but for the mappings that are on their way back.
    fn end_tear_down(&mut self) {
        self.change_tear_down(|tear_down| {
            tear_down.until = Until::Released;
            tear_down.blocks_dma = false;
        });
    }

    fn change_tear_down(&mut self, change: impl FnOnce(&mut TearDown)) {
        if let Some(Goal::TearDown(tear_down)) = &mut self.goal {
            change(tear_down);
        }
    }
}
