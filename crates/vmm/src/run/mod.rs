// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a machine's script and compares each step with what was expected.

mod memory_faults;
pub mod script_time;
mod split_access;

use kvm_slots::exit::GuestFault;
use kvm_slots::{Slot, Unsupported, Vm};
use memory_model::AddrRange;

use crate::backend::Platform;
use crate::board::actions::ActionError;
use crate::board::exits::{Answer, Exit};
use crate::board::{Board, BoardError};
use crate::guest::stub::Stub;
use crate::guest::{Guest, GuestError};
use crate::machine::{
    Access, AccessKind, Action, ActionKind, GpaRange, How, Machine, OnMemoryFault, Step,
};
use crate::report::{Observation, StepReport};
use crate::run::script_time::ScriptTime;
use crate::run::split_access::UNKNOWN_BYTES;

/// An assembled machine and its guest, ready for the next step.
#[derive(Debug)]
pub struct Run<P: Platform> {
    /// The machine in its current state.
    pub board: Board<P::Vm>,
    /// The guest's code.
    pub stub: Stub,
    /// How long the script may take. After that a read is no longer retried.
    pub time: ScriptTime,
    pub(crate) guest: P::Guest,
}

/// Why a run could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The machine cannot be assembled.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The guest cannot be started.
    #[error("the guest cannot be started")]
    Guest(#[from] GuestError),
}

impl<P: Platform> Run<P> {
    /// Assembles `machine` on `platform` and starts its guest.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn new(machine: &Machine, platform: &P) -> Result<Self, RunError> {
        let accesses: Vec<Access> = machine.accesses().copied().collect();
        let (board, stub) = Board::with_guest(machine, platform, &accesses)?;
        let guest = platform.start(&stub)?;
        // The initial slots do not belong to a step.
        board.slots.take_latest_plan();
        Ok(Self {
            board,
            stub,
            time: ScriptTime::UNLIMITED,
            guest,
        })
    }

    /// Executes the next step of the machine's script.
    pub fn step(&mut self, machine: &Machine, n: usize, step: &Step) -> StepReport {
        let mut report = match step {
            Step::Guest(access) => self.access(machine, n, access),
            Step::Vmm(action) => self.action(machine, n, action),
        };
        let plan = self.board.slots.take_latest_plan();
        report.slot_ops = plan
            .iter()
            .flat_map(kvm_slots::Plan::ops)
            .map(ToString::to_string)
            .collect();
        report
    }

    /// The current memslots.
    pub fn slots(&self) -> Vec<Slot> {
        self.board.slots.table().slots().cloned().collect()
    }

    fn access(&mut self, machine: &Machine, n: usize, access: &Access) -> StepReport {
        let range = AddrRange::new(access.gpa, access.size as u128);
        let unsupported = range.and_then(|range| self.board.refusal(range));
        let takes_for = access.private.filter(|_| !self.board.private_pages);
        let unsupported = unsupported.or(takes_for.map(|_| Unsupported::NoPrivatePages));
        let unsupported = unsupported.map(|why| why.to_string());
        let is_unknown = unsupported.is_none() && self.board.has_unknown_bytes(access);
        // No guest of this VM can make the access, or it is not made, because the VMM
        // could not answer its exit.
        let not_made = match is_unknown {
            true => Some(UNKNOWN_BYTES.to_string()),
            false => unsupported.clone().filter(|_| access.private.is_some()),
        };
        let unsupported = unsupported.or_else(|| not_made.clone());
        let mut region = self.board.region_name(access.gpa);
        match access.private {
            Some(true) => region += " as private",
            Some(false) => region += " as shared",
            None => {}
        }
        let seen = match not_made {
            Some(why) => match self.guest.skip() {
                Ok(()) => Observation::error(why),
                Err(error) => Observation::error(error.to_string()),
            },
            None => self.tried(access, machine.on_memory_fault),
        };
        let expected = match &unsupported {
            Some(why) => Observation::error(why.clone()),
            None => Observation {
                how: access.how,
                value: match (access.how, access.kind) {
                    // An access that does not complete has no value.
                    (How::MemoryFault | How::Error, _) => None,
                    (_, AccessKind::Read(value)) => value.map(hex),
                    (_, AccessKind::Write(value)) => Some(hex(value)),
                },
                note: String::new(),
            },
        };
        StepReport {
            n,
            op: match access.kind {
                AccessKind::Read(_) => "read",
                AccessKind::Write(_) => "write",
            },
            gpa: Some(access.gpa),
            size: access.size as u128,
            region,
            seen,
            expected,
            unsupported: unsupported.is_some(),
            slot_ops: Vec::new(),
        }
    }

    /// Tries an access up to the number of times that it has, and observes the last.
    fn tried(&mut self, access: &Access, on_fault: OnMemoryFault) -> Observation {
        let due = match access.kind {
            AccessKind::Read(value) => value.map(hex),
            AccessKind::Write(_) => None,
        };
        let mut tries = access.tries;
        loop {
            let (result, notes) = self.access_and_convert(access, on_fault);
            let exits = std::mem::take(&mut self.board.exits);
            let seen = observe(access, result, &exits).with_notes(notes);
            tries = tries.saturating_sub(1);
            if tries == 0 || seen.value == due || self.time.exceeded().is_some() {
                return seen;
            }
            if let Err(error) = self.guest.again() {
                return Observation::error(error.to_string());
            }
        }
    }

    /// Why an action cannot be performed, because this kernel does not support the
    /// region. The reservation in its place can be moved and enabled instead. It
    /// cannot fail as the region would. Nor can it be disabled, because what is
    /// visible then depends on the region.
    fn refusal_of(&self, action: &Action) -> Option<Unsupported> {
        match action.what {
            ActionKind::Enable { region, on: false } => self.board.refused[region],
            ActionKind::Move { region, .. }
            | ActionKind::Enable { region, .. }
            | ActionKind::ReadOnly { region, .. }
            | ActionKind::DirectReads { region, .. } => {
                self.board.refused[region].filter(|_| action.fails.is_some())
            }
            _ => None,
        }
    }

    fn action(&mut self, machine: &Machine, n: usize, action: &Action) -> StepReport {
        let (op, gpa, size, region) = describe(&action.what, machine, &self.board);
        let result = match self.refusal_of(action) {
            Some(why) => Err(why.into()),
            None => self.board.perform(&action.what),
        };
        let host_read = match action.what {
            ActionKind::HostRead { expect, .. } => expect.map(hex),
            _ => None,
        };
        let unsupported = matches!(result, Err(ActionError::Unsupported(_)));
        let expected = match (&result, &action.fails) {
            // Being refused is what is expected then.
            (Err(ActionError::Unsupported(why)), _) => Observation::error(why.to_string()),
            (_, Some(code)) => Observation::error(code.word().to_string()),
            (_, None) => Observation::done(host_read),
        };
        let seen = match result {
            Ok(value) => Observation::done(value.map(hex)),
            Err(ActionError::Unsupported(why)) => Observation::error(why.to_string()),
            Err(error) => Observation {
                note: error.to_string(),
                ..Observation::error(error.code().word().to_string())
            },
        };
        StepReport {
            n,
            op,
            gpa,
            size,
            region,
            seen,
            expected,
            unsupported,
            slot_ops: Vec::new(),
        }
    }
}

/// What was observed of an access.
fn observe(access: &Access, result: Result<u64, GuestError>, exits: &[Exit]) -> Observation {
    let value = match result {
        Ok(loaded) => match access.kind {
            AccessKind::Read(_) => loaded,
            AccessKind::Write(stored) => stored,
        },
        Err(GuestError::Fault(fault @ GuestFault::Memory { .. })) => {
            return Observation {
                how: How::MemoryFault,
                value: None,
                note: fault.to_string(),
            };
        }
        Err(error) => return Observation::error(error.to_string()),
    };
    let mut how = How::Direct;
    let mut note = String::new();
    for exit in exits {
        match &exit.by {
            Answer::Refused(why) => return Observation::error(why.to_string()),
            Answer::NoHostAddress => {
                return Observation::error("no host address to answer through".into());
            }
            Answer::EffectFailed(why) => return Observation::error(why.clone()),
            Answer::DroppedRomWrite => how = How::RomWrite,
            Answer::Memory => note = "memory in part of a page".into(),
            Answer::Unassigned => note = "nothing is there".into(),
            Answer::Reserved => note = "reserved".into(),
            Answer::Device => {}
        }
        if how == How::Direct {
            how = How::Mmio;
        }
    }
    Observation {
        how,
        value: Some(hex(value)),
        note,
    }
}

/// An action's word, addresses and object, for reports.
fn describe<V: Vm>(
    what: &ActionKind,
    machine: &Machine,
    board: &Board<V>,
) -> (&'static str, Option<u64>, u128, String) {
    let of_region = |op, index: usize, to: Option<u64>, more: &str| {
        let region = &machine.regions[index];
        let gpa = board.address(board.regions[index], to);
        (op, gpa, region.size, format!("{}{more}", region.name))
    };
    let of_span = |op, span: GpaRange, more: &str| {
        let region = board.region_name(span.gpa);
        (
            op,
            Some(span.gpa),
            span.size.into(),
            format!("{region}{more}"),
        )
    };
    let switched = |on| if on { " on" } else { " off" };
    let bytes = |gpa, size: usize| GpaRange {
        gpa,
        size: size as u64,
    };
    match *what {
        ActionKind::Move { region, to } => of_region("move", region, Some(to), ""),
        ActionKind::Enable { region, on: true } => of_region("enable", region, None, ""),
        ActionKind::Enable { region, on: false } => of_region("disable", region, None, ""),
        ActionKind::ReadOnly { region, on } => of_region("readonly", region, None, switched(on)),
        ActionKind::DirectReads { region, on } => {
            of_region("direct-reads", region, None, switched(on))
        }
        ActionKind::Decode { region, on } => of_region("decode", region, None, switched(on)),
        ActionKind::Reset { region } => of_region("reset", region, None, ""),
        ActionKind::Tdi { region, change } => of_region(change.word(), region, None, ""),
        ActionKind::Accept(span) => of_span("accept", span, ""),
        ActionKind::GiveBack(span) => of_span("give-back", span, ""),
        ActionKind::Revoke(span) => of_span("revoke", span, ""),
        ActionKind::Convert {
            span,
            private: true,
        } => of_span("convert", span, " to private"),
        ActionKind::Convert {
            span,
            private: false,
        } => of_span("convert", span, " to shared"),
        ActionKind::HostRead { gpa, size, .. } => of_span("host-read", bytes(gpa, size), ""),
        ActionKind::HostWrite { gpa, size, .. } => of_span("host-write", bytes(gpa, size), ""),
    }
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}
