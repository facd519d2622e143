// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The life of a TEE device interface (TDI): lock, report, start, mappings, stop, errors, reset.
//!
//! A confidential guest uses a device only in a configuration that it has inspected. The host locks the
//! configuration, the device reports it, the guest approves it, and the platform's security manager
//! (TSM) then maps the device's registers in the guest's secure page table (TDISP: PCI Express Base
//! Specification 6.1, section 11.2). Each step can fail, and each reply can be lost.
//!
//! A [`Tdi`] plans, and the VMM applies. It makes no call and does no I/O:
//!
//! ```
//! use vfio_private::tdi::{InterfaceId, Outcome, Progress, Step, Tdi, TdiState};
//!
//! let mut tdi = Tdi::new(InterfaceId(0x100));
//! tdi.lock()?;
//! let mut report = None;
//! let mut progress = Progress::InProgress;
//! while let Some(ticket) = tdi.begin() {
//!     // Here the VMM asks its TSM.
//!     if ticket.step() == Step::FetchReport {
//!         report = ticket.attest("the bytes of the report");
//!     }
//!     progress = tdi.answered(ticket, Outcome::Succeeded)?;
//! }
//! assert_eq!((progress, tdi.state()), (Progress::Done, TdiState::Locked));
//! let report = report.ok_or("no report")?;
//! assert!(report.open(&tdi).is_ok());
//!
//! // The reply to the stop is lost. The TDI may be locked or not, and the report is void.
//! tdi.stop()?;
//! let ticket = tdi.begin().ok_or("no step")?;
//! let _ = tdi.answered(ticket, Outcome::Unknown)?;
//! assert_eq!(tdi.state(), TdiState::Unknown);
//! assert_eq!(
//!     report.open(&tdi).unwrap_err().to_string(),
//!     "the report is from lock 1 of TDI 0x100, and TDI 0x100 is unknown without a lock in force",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Requests and steps
//!
//! | request | steps | if one fails or its outcome is unknown |
//! | --- | --- | --- |
//! | [`lock`](Tdi::lock) | lock, fetch the report | without a report: stop |
//! | [`fetch_report`](Tdi::fetch_report) | fetch the report | nothing to undo |
//! | [`start`](Tdi::start) | start, allow DMA; offer and map each range | take all ranges back, block DMA, stop |
//! | [`accept`](Tdi::accept) | offer and map each range | take the request's ranges back |
//! | [`release`](Tdi::release) | unmap and revoke each range | the ranges that are still mapped stay confirmed |
//! | [`stop`](Tdi::stop) | release all ranges, block DMA, stop | the same |
//! | [`reset`](Tdi::reset) | the same without the stop, reset, revoke what is left | goes on to the reset |
//!
//! A mapping has two halves. The host offers pages, then the platform maps the device's registers there.
//! They are undone in the reverse order, the last mapping first. Steps that undo come before all others,
//! so that nothing reuses a range that the guest may still have.
//!
//! # What is not known
//!
//! An [unknown](Outcome::Unknown) outcome is neither a success nor a failure:
//!
//! - of a lock, start, stop or reset: the TDI is [`Unknown`](TdiState::Unknown) until a stop or a reset
//!   succeeds.
//! - of offering or mapping a range: it is undone. If that succeeds, the range is free.
//! - of a step that takes a range from the guest: the range is [quarantined](MappingState::Quarantined)
//!   until a reset is confirmed. So it is if such a step fails while a request is undone or after an
//!   event.
//! - of allowing or blocking DMA: [`dma`](Tdi::dma) is [`Unknown`](Dma::Unknown), and the TDI cannot be
//!   locked again until DMA is blocked.
//!
//! # What a report is worth
//!
//! A report is bound to the lock that it came from: see [`Attested`]. [`start`](Tdi::start) and
//! [`accept`](Tdi::accept) take the private bytes from such a report and refuse a stale one.
//!
//! # Events
//!
//! Errors, removal and resets are possible at any time, even while a step is under way: see
//! [`event`](Tdi::event). They end a request, and all ranges are taken from the guest.
#![forbid(unsafe_code)]

mod answers;
mod attested;
mod error;
mod events;
mod mapping;
mod requests;
#[cfg(feature = "sim")]
pub mod sim;
mod state;
mod step;
mod table;

use guest_ranges::AddrRange;

pub use attested::{Attested, Generation, StaleReport};
pub use error::TdiError;
pub use mapping::{HeldMapping, Mapping, MappingState, PrivateBytes};
pub use state::{Dma, Event, InterfaceId, Outcome, TdiState};
pub use step::{Obstacle, Progress, Step, Ticket};

use table::MappingTable;

/// How many mappings a TDI can have. Mappings that continue each other count as one.
pub const MAX_MAPPINGS: usize = 4096;

/// A TEE device interface: what is known of it, and what must be done next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tdi {
    id: InterfaceId,
    state: TdiState,
    dma: Dma,
    /// The number of the latest lock that was tried.
    locks: u64,
    mappings: MappingTable,
    goal: Option<Goal>,
    /// What first prevented the goal.
    obstacle: Option<Obstacle>,
    under_way: Option<UnderWay>,
    /// The number of the latest ticket.
    tickets: u64,
}

/// What the steps lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Goal {
    Lock,
    Report,
    Start,
    Accept,
    TearDown(TearDown),
}

/// Takes from the guest what is on its way back, and then more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TearDown {
    until: Until,
    /// Whether it goes on after a step that failed. Otherwise the request ends there.
    is_forced: bool,
    /// Whether DMA still has to be blocked, if it is not.
    blocks_dma: bool,
}

/// Where a tear-down ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Until {
    Released,
    Unlocked,
    Reset,
}

/// A step that was begun and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct UnderWay {
    ticket: u64,
    step: Step,
    /// The latest event since it was begun.
    overtaken: Option<Event>,
}

impl Tdi {
    /// An interface in `CONFIG_UNLOCKED`, without mappings.
    pub const fn new(id: InterfaceId) -> Self {
        Self {
            id,
            state: TdiState::Unlocked,
            dma: Dma::Blocked,
            locks: 0,
            mappings: MappingTable::new(),
            goal: None,
            obstacle: None,
            under_way: None,
            tickets: 0,
        }
    }

    /// The interface's ID.
    pub const fn id(&self) -> InterfaceId {
        self.id
    }

    /// The state, as far as it is known.
    pub const fn state(&self) -> TdiState {
        self.state
    }

    /// Whether the TDI may access private memory.
    pub const fn dma(&self) -> Dma {
        self.dma
    }

    /// The lock that is in force; `None` unless the TDI is known to be locked or running.
    pub const fn generation(&self) -> Option<Generation> {
        match self.state.is_locked() {
            true => Some(self.latest_lock()),
            false => None,
        }
    }

    /// All mappings that are not free, by guest-physical address.
    pub fn mappings(&self) -> impl Iterator<Item = HeldMapping> + '_ {
        self.mappings.iter()
    }

    /// The mappings that may not be reused until a reset is confirmed.
    pub fn quarantined(&self) -> impl Iterator<Item = HeldMapping> + '_ {
        let is_quarantined = |held: &HeldMapping| held.state == MappingState::Quarantined;
        self.mappings().filter(is_quarantined)
    }

    /// The first mapping that occupies one of these guest-physical addresses. The VMM must not put
    /// anything else there.
    pub fn occupant(&self, gpa: AddrRange) -> Option<HeldMapping> {
        self.mappings()
            .find(|held| held.mapping.gpa().overlaps(gpa))
    }

    /// The next step; `None` if there is none, or if one is under way.
    pub fn next_step(&self) -> Option<Step> {
        match self.under_way {
            Some(_) => None,
            None => self.due(),
        }
    }

    /// Begins the next step. Carry it out, then report its outcome with [`answered`](Self::answered).
    pub fn begin(&mut self) -> Option<Ticket> {
        let step = self.next_step()?;
        self.tickets = self.tickets.wrapping_add(1);
        if step == Step::Lock {
            // A report under way for an earlier lock keeps the earlier number.
            self.locks = self.locks.wrapping_add(1);
        }
        self.under_way = Some(UnderWay {
            ticket: self.tickets,
            step,
            overtaken: None,
        });
        Some(Ticket {
            number: self.tickets,
            step,
            generation: self.latest_lock(),
        })
    }

    /// The step that the goal needs, whether one is under way or not.
    fn due(&self) -> Option<Step> {
        match self.goal? {
            Goal::Lock if self.state == TdiState::Unlocked => Some(Step::Lock),
            Goal::Lock | Goal::Report => Some(Step::FetchReport),
            Goal::Start if self.state == TdiState::Locked => Some(Step::Start),
            Goal::Start if self.dma == Dma::Blocked => Some(Step::AllowDma),
            Goal::Start | Goal::Accept => self.mappings.next_forward(),
            Goal::TearDown(tear_down) => {
                let block = tear_down.blocks_dma && self.dma != Dma::Blocked;
                let back = self.mappings.next_back();
                let last = match tear_down.until {
                    Until::Released => None,
                    Until::Unlocked if self.state == TdiState::Unlocked => None,
                    Until::Unlocked => Some(Step::Stop),
                    Until::Reset => Some(Step::Reset),
                };
                back.or(block.then_some(Step::BlockDma)).or(last)
            }
        }
    }

    const fn latest_lock(&self) -> Generation {
        Generation {
            id: self.id,
            number: self.locks,
        }
    }

    /// Ends the request if nothing is left to do.
    fn progress(&mut self) -> Progress {
        if self.under_way.is_some() || self.due().is_some() {
            return Progress::InProgress;
        }
        self.goal = None;
        self.mappings.settle();
        match self.obstacle.take() {
            Some(obstacle) => Progress::NotDone(obstacle),
            None => Progress::Done,
        }
    }
}
