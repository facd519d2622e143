// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What an event from outside makes of a TDI.

use crate::tdi::{Dma, Event, Goal, Obstacle, Progress, Step, Tdi, TdiState, TearDown, Until};

impl Tdi {
    /// Records an event. It is possible in every state, even while a step is under way.
    ///
    /// The event ends a request, and all mappings are taken from the guest. A stop or a reset under way
    /// goes on. Carry out the steps that follow before anything reuses an address or a page. After a
    /// reset only the host's half of the mappings is left to undo.
    pub fn event(&mut self, event: Event) -> Progress {
        let mut under_way = None;
        if let Some(step) = &mut self.under_way {
            step.overtaken = Some(event);
            under_way = Some(step.step);
        }
        self.state = state_after(self.state, event);
        match (event, under_way) {
            // How far the mapping is on its way to the guest is not known before the answer.
            (Event::Error | Event::Removed, Some(Step::Offer(mapping) | Step::Map(mapping))) => {
                self.mappings.send_back(Some(mapping));
            }
            (Event::Error | Event::Removed, _) => self.mappings.send_back(None),
            // The platform maps nothing for an unlocked interface. The host may still offer.
            (Event::Reset, Some(Step::Offer(mapping))) => {
                self.mappings.platform_dropped_all(Some(mapping));
            }
            (Event::Reset, _) => self.mappings.platform_dropped_all(None),
        }
        if event == Event::Reset {
            self.dma = Dma::Blocked;
        }
        let old = match self.goal {
            Some(Goal::TearDown(tear_down)) => Some(tear_down),
            Some(_) => {
                self.obstacle = Some(Obstacle::Event(event));
                None
            }
            None => None,
        };
        if event == Event::Reset && old.is_some() {
            // What failed before the reset does not matter any more.
            self.obstacle = None;
        }
        let until = match (event, old.map(|old| old.until)) {
            (Event::Error, Some(until)) => until,
            (Event::Removed, Some(Until::Reset)) => Until::Reset,
            _ => Until::Released,
        };
        self.goal = Some(Goal::TearDown(TearDown {
            until,
            is_forced: true,
            blocks_dma: true,
        }));
        self.progress()
    }
}

/// The state after an event.
const fn state_after(state: TdiState, event: Event) -> TdiState {
    match (event, state) {
        (Event::Reset, _) => TdiState::Unlocked,
        (Event::Removed, _) | (Event::Error, TdiState::Removed) => TdiState::Removed,
        (Event::Error, TdiState::Locked | TdiState::Running | TdiState::Error) => TdiState::Error,
        // Only a locked interface enters ERROR, so either it was locked or the event is old. A step
        // whose outcome is unknown may also take effect after the event.
        (Event::Error, TdiState::Unlocked | TdiState::Unknown) => TdiState::Unknown,
    }
}
