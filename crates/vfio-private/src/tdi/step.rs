// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The steps that a VMM carries out for a TDI, and the ticket of the one under way.

use core::fmt;

use crate::tdi::attested::{Attested, Generation};
use crate::tdi::mapping::Mapping;
use crate::tdi::state::{Event, Outcome};

/// What the VMM must do next. The sections are those of the PCI Express Base Specification 6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a VMM has to carry each of them out.
pub enum Step {
    /// Lock the configuration: `LOCK_INTERFACE_REQUEST` (section 11.3.8).
    Lock,
    /// Fetch the interface report: `GET_DEVICE_INTERFACE_REPORT` (section 11.3.10).
    FetchReport,
    /// Start the TDI: `START_INTERFACE_REQUEST` (section 11.3.14).
    Start,
    /// Let the TDI access private memory, in the platform's trusted IOMMU tables.
    AllowDma,
    /// Make the host's half of a mapping: hand the pages to the platform. In terms of KVM, there is a
    /// memslot, and its pages become private.
    Offer(Mapping),
    /// Make the platform's half: map the registers in the guest's secure second-stage page table.
    Map(Mapping),
    /// Undo the platform's half. It fails if the pages are not mapped.
    Unmap(Mapping),
    /// Undo the host's half, and notify the guest. It succeeds if the pages were never offered.
    Revoke(Mapping),
    /// Stop the TDI's access to private memory. It succeeds if there was none.
    BlockDma,
    /// Unlock the TDI, from any state: `STOP_INTERFACE_REQUEST` (section 11.3.16).
    Stop,
    /// Reset the device into `CONFIG_UNLOCKED`, and have the platform drop its mappings of the TDI and
    /// the TDI's access to memory. A function level reset alone moves a locked TDI to `ERROR`.
    Reset,
}

impl Step {
    /// The mapping that the step is about.
    pub const fn mapping(self) -> Option<Mapping> {
        match self {
            Self::Offer(mapping)
            | Self::Map(mapping)
            | Self::Unmap(mapping)
            | Self::Revoke(mapping) => Some(mapping),
            _ => None,
        }
    }
}

/// For example `map BAR 0 0x0-0xfff at 0xe0000000`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Lock => "lock",
            Self::FetchReport => "fetch the report",
            Self::Start => "start",
            Self::AllowDma => "allow DMA",
            Self::Offer(_) => "offer",
            Self::Map(_) => "map",
            Self::Unmap(_) => "unmap",
            Self::Revoke(_) => "revoke",
            Self::BlockDma => "block DMA",
            Self::Stop => "stop",
            Self::Reset => "reset",
        };
        match self.mapping() {
            Some(mapping) => write!(f, "{word} {mapping}"),
            None => f.write_str(word),
        }
    }
}

/// A step under way. It is answered exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the TDI waits until the outcome of the step is reported"]
pub struct Ticket {
    pub(super) number: u64,
    pub(super) step: Step,
    pub(super) generation: Generation,
}

impl Ticket {
    /// What to do.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// The lock that the step belongs to. A [`Step::Lock`] has the number of the new lock.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Binds the report that this step has fetched to the lock under which it was asked for. `None` if
    /// this is not a [`Step::FetchReport`].
    pub fn attest<T>(&self, report: T) -> Option<Attested<T>> {
        let attested = Attested::new(self.generation, report);
        (self.step == Step::FetchReport).then_some(attested)
    }
}

/// Why a request was not fulfilled: the first step that did not succeed, or an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Obstacle {
    /// A step failed, or its outcome is not known.
    Step(Step, Outcome),
    /// An event ended the request.
    Event(Event),
}

/// For example `map BAR 0 0x0-0xfff at 0xe0000000 failed`.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step, outcome) => write!(f, "{step} {outcome}"),
            Self::Event(event) => event.fmt(f),
        }
    }
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
// Exhaustive: a VMM has to know whether a request is over, and how it ended.
pub enum Progress {
    /// There are more steps.
    InProgress,
    /// There are no more steps, and all was done.
    Done,
    /// There are no more steps. What could be undone is undone, and
    /// [`quarantined`](super::Tdi::quarantined) lists the rest.
    NotDone(Obstacle),
}
