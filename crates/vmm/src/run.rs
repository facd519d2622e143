// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running a machine's script, and comparing what was seen with what was
//! expected.

use kvm_slots::sim::GuestFault;
use kvm_slots::{Slot, Unsupported, Vm};
use memory_model::{AddrRange, RegionId};

use crate::act::ActError;
use crate::backend::Platform;
use crate::board::{Board, BoardError};
use crate::exit::{Answer, Exit};
use crate::guest::stub::Stub;
use crate::guest::{Guest, GuestError};
use crate::machine::{
    Access, AccessKind, Action, ActionKind, GpaRange, How, Machine, OnMemoryFault, Step,
};
use crate::report::{Observation, StepReport};
use crate::script_time::ScriptTime;

/// A machine that was put together, and its guest, waiting for the next step.
#[derive(Debug)]
pub struct Run<P: Platform> {
    /// The machine as it is now.
    pub board: Board<P::Vm>,
    /// The guest's code.
    pub stub: Stub,
    /// How long the script may take. After that a read is no longer retried.
    pub time: ScriptTime,
    pub(crate) guest: P::Guest,
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The machine cannot be put together.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The guest cannot be started.
    #[error("the guest cannot be started: {0}")]
    Guest(#[from] GuestError),
}

impl<P: Platform> Run<P> {
    /// Puts `machine` together on `platform`.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn new(machine: &Machine, platform: &P) -> Result<Self, RunError> {
        let accesses: Vec<Access> = machine.accesses().copied().collect();
        let (board, stub) = Board::with_guest(machine, platform, &accesses)?;
        let guest = platform.start(&stub)?;
        // The slots that are there to begin with are no step's doing.
        board.slots.take_latest_plan();
        Ok(Self {
            board,
            stub,
            time: ScriptTime::UNLIMITED,
            guest,
        })
    }

    /// Takes one step of the machine's script, the next one.
    pub fn step(&mut self, machine: &Machine, n: usize, step: &Step) -> StepReport {
        let mut report = match step {
            Step::Guest(access) => self.access(machine, n, access),
            Step::Vmm(action) => self.action(machine, n, action),
        };
        let plan = self.board.slots.take_latest_plan();
        report.slot_ops = plan
            .iter()
            .flat_map(|plan| &plan.ops)
            .map(ToString::to_string)
            .collect();
        report
    }

    /// The memslots as they are now.
    pub fn slots(&self) -> Vec<Slot> {
        self.board.slots.table().slots().cloned().collect()
    }

    fn access(&mut self, machine: &Machine, n: usize, access: &Access) -> StepReport {
        let unsupported = self.board.refusal(access.gpa, access.size);
        let takes_for = access.private.filter(|_| !self.board.private_pages);
        let unsupported = unsupported.or(takes_for.map(|_| Unsupported::NoPrivatePages));
        let mut region = self.board.region_name(access.gpa);
        match access.private {
            Some(true) => region += " as private",
            Some(false) => region += " as shared",
            None => {}
        }
        let seen = match access.private.and(unsupported) {
            // No guest of this VM could make such an access there.
            Some(why) => match self.guest.skip() {
                Ok(()) => Observation::error(why.to_string()),
                Err(error) => Observation::error(error.to_string()),
            },
            None => self.tried(access, machine.on_memory_fault),
        };
        let expected = match unsupported {
            Some(why) => Observation::error(why.to_string()),
            None => Observation {
                how: access.how,
                value: match (access.how, access.kind) {
                    // What does not complete has no value.
                    (How::MemoryFault | How::Error, _) => None,
                    (_, AccessKind::Read(value)) => value.map(hex),
                    (_, AccessKind::Write(value)) => Some(hex(value)),
                },
                note: String::new(),
            },
        };
        let op = match access.kind {
            AccessKind::Read(_) => "read",
            AccessKind::Write(_) => "write",
        };
        let size = access.size as u64;
        let report = StepReport::new(n, op, access.gpa, size, region, seen, expected);
        report.unsupported_if(unsupported.is_some())
    }

    /// What an access comes to, at the latest of the tries that it has.
    fn tried(&mut self, access: &Access, on_fault: OnMemoryFault) -> Observation {
        let due = match access.kind {
            AccessKind::Read(value) => value.map(hex),
            AccessKind::Write(_) => None,
        };
        let mut tries = access.tries;
        loop {
            let (result, notes) = self.access_at_last(access, on_fault);
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

    /// Why an action makes no sense, because this kernel cannot give the guest
    /// the region that is meant. The reservation in its place moves and comes
    /// as the region would; but it cannot fail as the region would, and it
    /// does not go: what shows then depends on the region.
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
            None => self.board.act(&action.what),
        };
        let host_read = match action.what {
            ActionKind::HostRead { expect, .. } => expect.map(hex),
            _ => None,
        };
        let unsupported = matches!(result, Err(ActError::Unsupported(_)));
        let expected = match (&result, &action.fails) {
            // Whatever was expected, this kernel cannot do it.
            (Err(ActError::Unsupported(why)), _) => Observation::error(why.to_string()),
            (_, Some(code)) => Observation::error(code.word().to_string()),
            (_, None) => Observation::done(host_read),
        };
        let seen = match result {
            Ok(value) => Observation::done(value.map(hex)),
            Err(ActError::Unsupported(why)) => Observation::error(why.to_string()),
            Err(error) => Observation {
                note: error.to_string(),
                ..Observation::error(error.code().word().to_string())
            },
        };
        let report = StepReport::new(n, op, gpa, size, region, seen, expected);
        report.unsupported_if(unsupported)
    }
}

/// What an access came to.
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

impl<V: Vm> Board<V> {
    /// Why this kernel cannot give the guest what these addresses show.
    fn refusal(&self, gpa: u64, size: usize) -> Option<Unsupported> {
        let range = AddrRange::new(gpa, size as u128)?;
        let view = self.model.view(self.space);
        let mut runs = view.intersecting(range);
        runs.find_map(|run| run.region().handle().refused)
    }

    /// Where the region around this one starts in the address space, and at
    /// which offset in it this one lies.
    pub(crate) fn place(&self, id: RegionId) -> (u64, u64) {
        let place = |id| self.model.tree().place(id).ok().flatten();
        let Some(own) = place(id) else { return (0, 0) };
        let around = std::iter::successors(place(own.parent), |around| place(around.parent));
        let start = around.fold(0_u64, |start, around| start.saturating_add(around.address));
        (start, own.address)
    }

    /// Which region is at an address, and how far into it, for people.
    fn region_name(&self, gpa: u64) -> String {
        let view = self.model.view(self.space);
        let found = view
            .find(gpa)
            .and_then(|run| Some((run, run.offset_of(gpa)?)));
        match found {
            Some((run, offset)) => format!("{} + {offset:#x}", run.region().name()),
            None => "nothing".into(),
        }
    }
}

/// An action's word, addresses and object, for reports.
fn describe<V: Vm>(
    what: &ActionKind,
    machine: &Machine,
    board: &Board<V>,
) -> (&'static str, u64, u64, String) {
    let of_region = |op, index: usize, to: Option<u64>, more: &str| {
        let region = &machine.regions[index];
        let (parent, at) = board.place(board.regions[index]);
        let gpa = parent.saturating_add(to.unwrap_or(at));
        let size = u64::try_from(region.size).unwrap_or(u64::MAX);
        (op, gpa, size, format!("{}{more}", region.name))
    };
    let of_span = |op, span: GpaRange, more: &str| {
        let region = board.region_name(span.gpa);
        (op, span.gpa, span.size, format!("{region}{more}"))
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
