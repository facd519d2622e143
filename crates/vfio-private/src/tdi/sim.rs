// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A simulated security manager (TSM) with one TDI (feature `sim`), for tests and for VMMs without hardware.
//!
//! It follows the device's and the platform's side of the rules and knows nothing of [`Tdi`](super::Tdi).
//! It can be told to fail a call, or to lose the answer of one.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::tdi::mapping::Mapping;
use crate::tdi::state::{Outcome, TdiState};
use crate::tdi::step::Step;

/// What became of a call whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lost {
    /// It was carried out.
    Done,
    /// It was not carried out, and never will be.
    NotDone,
    /// It is carried out just before the next call.
    Late,
}

/// A call that does not go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fails,
    Loses(Lost),
}

/// A report, and the lock that the device reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimReport {
    /// How often the TDI had been locked when the report was fetched.
    pub lock: u64,
    /// The bytes of the `DEVICE_INTERFACE_REPORT`.
    pub bytes: Vec<u8>,
}

/// A TSM without hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimTsm {
    report: Vec<u8>,
    keeps_mappings: bool,
    state: TdiState,
    locks: u64,
    dma: bool,
    offered: Vec<Mapping>,
    /// Each with the number of the lock under which it was mapped.
    mapped: Vec<(Mapping, u64)>,
    late: Option<Step>,
    fetched: Option<SimReport>,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
}

impl SimTsm {
    /// A TDI in `CONFIG_UNLOCKED` whose report has these bytes. The TSM refuses to stop it while its
    /// registers are mapped.
    pub fn new(report: Vec<u8>) -> Self {
        Self {
            report,
            keeps_mappings: false,
            state: TdiState::Unlocked,
            locks: 0,
            dma: false,
            offered: Vec::new(),
            mapped: Vec::new(),
            late: None,
            fetched: None,
            calls: 0,
            faults: BTreeMap::new(),
        }
    }

    /// The same, but the TSM stops a TDI whose registers are mapped, and leaves them mapped.
    #[must_use]
    pub fn keeping_mappings(self) -> Self {
        Self {
            keeps_mappings: true,
            ..self
        }
    }

    /// Carries out a step.
    pub fn perform(&mut self, step: Step) -> Outcome {
        let call = self.calls;
        self.calls += 1;
        self.fetched = None;
        if let Some(late) = self.late.take() {
            self.carry_out(late);
            self.fetched = None;
        }
        match self.faults.remove(&call) {
            None if self.carry_out(step) => Outcome::Succeeded,
            None | Some(Fault::Fails) => Outcome::Failed,
            Some(Fault::Loses(lost)) => {
                match lost {
                    Lost::Done => {
                        self.carry_out(step);
                    }
                    Lost::NotDone => {}
                    Lost::Late => self.late = Some(step).filter(|step| self.may_be_late(*step)),
                }
                self.fetched = None;
                Outcome::Unknown
            }
        }
    }

    /// Makes a future call fail before it has an effect. The next call has number 0.
    pub fn fail(&mut self, call: u64) {
        let call = self.calls.saturating_add(call);
        self.faults.insert(call, Fault::Fails);
    }

    /// Loses the answer of a future call. The next call has number 0.
    pub fn lose(&mut self, call: u64, lost: Lost) {
        let call = self.calls.saturating_add(call);
        self.faults.insert(call, Fault::Loses(lost));
    }

    /// Moves a locked TDI to `ERROR`. An unlocked one stays as it is (section 11.2).
    pub fn break_interface(&mut self) {
        if self.state.is_locked() {
            self.state = TdiState::Error;
        }
    }

    /// Removes the device. What is mapped stays mapped. A lost message to the device never arrives.
    pub fn remove(&mut self) {
        self.state = TdiState::Removed;
        self.late = self.late.filter(|step| self.may_be_late(*step));
    }

    /// Puts a device into the empty slot. What is mapped stays mapped.
    pub fn insert(&mut self) {
        if self.state == TdiState::Removed {
            self.state = TdiState::Unlocked;
        }
    }

    /// Resets the device, or its successor in the slot, from outside. The platform drops what it holds
    /// of the TDI.
    pub fn reset(&mut self) {
        self.late = None;
        self.state = TdiState::Unlocked;
        self.mapped.clear();
        self.dma = false;
    }

    /// The report that the last call fetched.
    pub fn take_report(&mut self) -> Option<SimReport> {
        self.fetched.take()
    }

    /// The state of the TDI, which is never [`Unknown`](TdiState::Unknown) here.
    pub const fn state(&self) -> TdiState {
        self.state
    }

    /// How often the TDI was locked.
    pub const fn locks(&self) -> u64 {
        self.locks
    }

    /// Whether the TDI may access private memory.
    pub const fn dma(&self) -> bool {
        self.dma
    }

    /// The lost step that is still to be carried out.
    pub const fn late(&self) -> Option<Step> {
        self.late
    }

    /// What the host has offered and not revoked.
    pub fn offered(&self) -> &[Mapping] {
        &self.offered
    }

    /// What is mapped, each with the number of the lock under which it was mapped.
    pub fn mapped(&self) -> &[(Mapping, u64)] {
        &self.mapped
    }

    /// Whether a step can be carried out later: no message reaches a removed device.
    fn may_be_late(&self, step: Step) -> bool {
        let is_of_platform =
            step.mapping().is_some() || matches!(step, Step::AllowDma | Step::BlockDma);
        is_of_platform || self.state != TdiState::Removed
    }

    /// Carries a step out, if the rules allow it.
    fn carry_out(&mut self, step: Step) -> bool {
        let allowed = self.allows(step);
        if allowed {
            self.change(step);
        }
        allowed
    }

    fn allows(&self, step: Step) -> bool {
        match step {
            Step::Lock => self.state == TdiState::Unlocked,
            Step::FetchReport => self.state.is_locked(),
            Step::Start => self.state == TdiState::Locked,
            Step::AllowDma => self.state == TdiState::Running,
            Step::Offer(mapping) => {
                let is_taken = |other: &Mapping| other.gpa().overlaps(mapping.gpa());
                !self.offered.iter().any(is_taken)
            }
            Step::Map(mapping) => {
                let is_taken = |(other, _): &(Mapping, u64)| other.conflicts(mapping);
                let is_free = !self.mapped.iter().any(is_taken);
                self.state.is_locked() && covers(self.offered.iter(), mapping) && is_free
            }
            Step::Unmap(mapping) => covers(self.mapped.iter().map(|(other, _)| other), mapping),
            // The host cannot have the pages while the platform holds them.
            Step::Revoke(mapping) => {
                let is_held = |(other, _): &(Mapping, u64)| other.gpa().overlaps(mapping.gpa());
                !self.mapped.iter().any(is_held)
            }
            Step::BlockDma => true,
            Step::Stop => {
                let may_stop = self.keeps_mappings || self.mapped.is_empty();
                self.state != TdiState::Removed && may_stop
            }
            Step::Reset => self.state != TdiState::Removed,
        }
    }

    fn change(&mut self, step: Step) {
        match step {
            Step::Lock => {
                self.state = TdiState::Locked;
                self.locks += 1;
            }
            Step::FetchReport => {
                self.fetched = Some(SimReport {
                    lock: self.locks,
                    bytes: self.report.clone(),
                });
            }
            Step::Start => self.state = TdiState::Running,
            Step::AllowDma => self.dma = true,
            Step::Offer(mapping) => self.offered.push(mapping),
            Step::Map(mapping) => self.mapped.push((mapping, self.locks)),
            Step::Unmap(mapping) => {
                let cut = |(other, lock): (Mapping, u64)| {
                    let rest = other.outside(mapping.gpa());
                    rest.map(move |part| (part, lock))
                };
                self.mapped = self.mapped.drain(..).flat_map(cut).collect();
            }
            Step::Revoke(mapping) => {
                let cut = |other: Mapping| other.outside(mapping.gpa());
                self.offered = self.offered.drain(..).flat_map(cut).collect();
            }
            Step::BlockDma => self.dma = false,
            Step::Stop => self.state = TdiState::Unlocked,
            Step::Reset => self.reset(),
        }
    }
}

/// Whether `parts` together lead from all addresses of the mapping to its bytes.
fn covers<'a>(parts: impl Iterator<Item = &'a Mapping>, mapping: Mapping) -> bool {
    let same = |part: &&Mapping| {
        let clipped = part.clipped(mapping.gpa());
        clipped.is_some_and(|clipped| mapping.clipped(clipped.gpa()) == Some(clipped))
    };
    let sizes = parts
        .filter(same)
        .filter_map(|part| part.clipped(mapping.gpa()));
    let covered: u128 = sizes.map(|part| part.gpa().size()).sum();
    covered == mapping.gpa().size()
}
