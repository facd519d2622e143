// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM asks of a TDI. A request is checked, and then becomes a goal.

use guest_ranges::AddrRange;

use crate::tdi::step::Step;
use crate::tdi::{
    Attested, Dma, Goal, MAX_MAPPINGS, Mapping, MappingState, PrivateBytes, Tdi, TdiError,
    TdiState, TearDown, Until,
};

impl Tdi {
    /// Locks the configuration and fetches the report (section 11.2). If the report cannot be had, the
    /// TDI is stopped again.
    ///
    /// # Errors
    ///
    /// [`TdiError`] unless the TDI is in `CONFIG_UNLOCKED`, its DMA is blocked and nothing else is under
    /// way.
    pub fn lock(&mut self) -> Result<(), TdiError> {
        self.require_idle()?;
        self.require("lock", &[TdiState::Unlocked])?;
        if self.dma != Dma::Blocked {
            return Err(TdiError::DmaNotBlocked {
                id: self.id,
                state: self.state,
                dma: self.dma,
            });
        }
        self.goal = Some(Goal::Lock);
        Ok(())
    }

    /// Fetches the report once more.
    ///
    /// # Errors
    ///
    /// [`TdiError`] unless the TDI is locked or running and nothing else is under way.
    pub fn fetch_report(&mut self) -> Result<(), TdiError> {
        self.require_idle()?;
        self.require("fetch a report", &[TdiState::Locked, TdiState::Running])?;
        self.goal = Some(Goal::Report);
        Ok(())
    }

    /// Starts the TDI, lets it access private memory, and gives the guest these mappings: all of it or
    /// nothing. There may be no mappings. Call it once the guest has approved the report.
    ///
    /// If a step fails, everything that was done is undone, and the TDI is stopped: there is no way
    /// from `RUN` back to `CONFIG_LOCKED` (section 11.2).
    ///
    /// # Errors
    ///
    /// [`TdiError`] unless the TDI is in `CONFIG_LOCKED`, the report is from that lock, it makes all
    /// bytes of the mappings private, they are free, and nothing else is under way.
    pub fn start(
        &mut self,
        report: &Attested<PrivateBytes>,
        mappings: &[Mapping],
    ) -> Result<(), TdiError> {
        self.require_idle()?;
        self.require("start", &[TdiState::Locked])?;
        self.check(report, mappings)?;
        self.add(mappings);
        self.goal = Some(Goal::Start);
        Ok(())
    }

    /// Gives the guest these mappings: all or none.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start). The TDI may also be running, and there must be a mapping.
    pub fn accept(
        &mut self,
        report: &Attested<PrivateBytes>,
        mappings: &[Mapping],
    ) -> Result<(), TdiError> {
        self.require_idle()?;
        self.require("accept", &[TdiState::Locked, TdiState::Running])?;
        self.check(report, mappings)?;
        if mappings.is_empty() {
            return Err(TdiError::NoMapping { id: self.id });
        }
        self.add(mappings);
        self.goal = Some(Goal::Accept);
        Ok(())
    }

    /// Takes from the guest what it has of these guest-physical addresses. If a step fails, the mappings
    /// that were not unmapped yet stay confirmed.
    ///
    /// # Errors
    ///
    /// [`TdiError`] unless some of them are of a confirmed mapping and none of another one, they are
    /// whole pages, and nothing else is under way.
    pub fn release(&mut self, gpa: AddrRange) -> Result<(), TdiError> {
        self.require_idle()?;
        let touched = || {
            self.mappings()
                .filter(|held| held.mapping.gpa().overlaps(gpa))
        };
        for held in touched() {
            let mapping = held.mapping.clipped(gpa).unwrap_or(held.mapping);
            if held.state != MappingState::Confirmed {
                let (id, state) = (self.id, self.state);
                return Err(TdiError::NotFree {
                    id,
                    state,
                    mapping,
                    held,
                });
            }
            if !mapping.is_aligned() {
                return Err(TdiError::Unaligned {
                    id: self.id,
                    mapping,
                });
            }
        }
        match touched().count() {
            0 => return Err(TdiError::NothingAccepted { id: self.id, gpa }),
            // At most one mapping is cut at either end.
            _ if self.mappings.len() > MAX_MAPPINGS - 2 => {
                return Err(TdiError::TooManyMappings { id: self.id });
            }
            _ => {}
        }
        self.mappings.send_part_back(gpa);
        self.goal = Some(Goal::TearDown(TearDown {
            until: Until::Released,
            is_forced: false,
            blocks_dma: false,
        }));
        Ok(())
    }

    /// Takes all mappings from the guest, blocks DMA, and unlocks the TDI (section 11.3.16). A request
    /// that has steps left, but none under way, is given up.
    ///
    /// If a step fails, the request ends there and can be repeated. A step with an unknown outcome does
    /// not end it.
    ///
    /// # Errors
    ///
    /// [`TdiError`] if there is nothing to stop, if the device was removed, or while a step is under way.
    pub fn stop(&mut self) -> Result<(), TdiError> {
        self.require_no_step()?;
        let is_stopped = self.state == TdiState::Unlocked && self.dma == Dma::Blocked;
        if is_stopped && self.goal.is_none() || self.state == TdiState::Removed {
            return Err(self.wrong_state("stop"));
        }
        self.tear_down(Until::Unlocked, false);
        Ok(())
    }

    /// Takes all mappings from the guest, blocks DMA, resets the device, and revokes what could not be
    /// taken before. A request that has steps left, but none under way, is given up.
    ///
    /// Once it is [`Done`](crate::tdi::Progress::Done), the TDI is in `CONFIG_UNLOCKED`, and all its
    /// addresses and pages are free.
    ///
    /// # Errors
    ///
    /// [`TdiError`] while a step is under way.
    pub fn reset(&mut self) -> Result<(), TdiError> {
        self.require_no_step()?;
        self.tear_down(Until::Reset, true);
        Ok(())
    }

    /// Replaces the goal.
    fn tear_down(&mut self, until: Until, is_forced: bool) {
        self.mappings.send_back(None);
        let was_forced = matches!(self.goal, Some(Goal::TearDown(old)) if old.is_forced);
        self.obstacle = None;
        self.goal = Some(Goal::TearDown(TearDown {
            until,
            is_forced: is_forced || was_forced,
            blocks_dma: true,
        }));
        if self.due().is_none() {
            self.goal = None;
        }
    }

    fn add(&mut self, mappings: &[Mapping]) {
        let generation = self.latest_lock();
        for &mapping in mappings {
            self.mappings.add(mapping, generation);
        }
    }

    /// Checks the mappings of a request.
    fn check(&self, report: &Attested<PrivateBytes>, mappings: &[Mapping]) -> Result<(), TdiError> {
        let private = report.open(self)?;
        let id = self.id;
        // Releasing a part of a mapping makes up to two more.
        if mappings.len().saturating_add(self.mappings.len()) > MAX_MAPPINGS - 2 {
            return Err(TdiError::TooManyMappings { id });
        }
        for (n, &mapping) in mappings.iter().enumerate() {
            if !mapping.is_aligned() {
                return Err(TdiError::Unaligned { id, mapping });
            }
            if let Some(missing) = private.missing(mapping) {
                return Err(TdiError::NotPrivate {
                    id,
                    mapping,
                    missing,
                });
            }
            let mut others = mappings.iter().take(n).copied();
            if let Some(other) = others.find(|other| other.conflicts(mapping)) {
                return Err(TdiError::Conflict { id, mapping, other });
            }
            if let Some(held) = self.mappings().find(|held| held.mapping.conflicts(mapping)) {
                let state = self.state;
                return Err(TdiError::NotFree {
                    id,
                    state,
                    mapping,
                    held,
                });
            }
        }
        Ok(())
    }

    fn require(&self, request: &'static str, states: &[TdiState]) -> Result<(), TdiError> {
        match states.contains(&self.state) {
            true => Ok(()),
            false => Err(self.wrong_state(request)),
        }
    }

    fn wrong_state(&self, request: &'static str) -> TdiError {
        TdiError::State {
            id: self.id,
            state: self.state,
            request,
        }
    }

    fn require_no_step(&self) -> Result<(), TdiError> {
        match self.under_way {
            Some(under_way) => Err(self.busy(under_way.step)),
            None => Ok(()),
        }
    }

    fn require_idle(&self) -> Result<(), TdiError> {
        self.require_no_step()?;
        match self.due() {
            Some(step) => Err(self.busy(step)),
            None => Ok(()),
        }
    }

    fn busy(&self, step: Step) -> TdiError {
        TdiError::Busy {
            id: self.id,
            state: self.state,
            step,
        }
    }
}
