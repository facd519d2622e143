// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why a request to a TDI is refused. A refused request changes nothing.

use guest_ranges::AddrRange;
use thiserror::Error;

use crate::tdi::attested::StaleReport;
use crate::tdi::mapping::{HeldMapping, Mapping};
use crate::tdi::state::{Dma, InterfaceId, TdiState};
use crate::tdi::step::Step;

/// Why a request is refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TdiError {
    /// The report is not from the lock that is in force.
    #[error(transparent)]
    Stale(#[from] StaleReport),
    /// The state of the TDI does not allow the request.
    #[error("cannot {request}: {id} is {state}")]
    State {
        /// The TDI.
        id: InterfaceId,
        /// Its state.
        state: TdiState,
        /// What was requested.
        request: &'static str,
    },
    /// The platform lets, or may let, the TDI access private memory. Stop the TDI again, or reset it.
    #[error("cannot lock: {id} is {state}, and its DMA is {dma}, not blocked")]
    DmaNotBlocked {
        /// The TDI.
        id: InterfaceId,
        /// Its state.
        state: TdiState,
        /// Its access to memory.
        dma: Dma,
    },
    /// Another request is not finished.
    #[error("{id} is {state} and busy: the next step is to {step}")]
    Busy {
        /// The TDI.
        id: InterfaceId,
        /// Its state.
        state: TdiState,
        /// The step under way, or else the next one.
        step: Step,
    },
    /// The outcome of a step that is not under way, or of another TDI's.
    #[error("{id} does not wait for the outcome of: {step}")]
    NotUnderWay {
        /// The TDI.
        id: InterfaceId,
        /// The step.
        step: Step,
    },
    /// No mapping was given.
    #[error("{id}: there is nothing to accept")]
    NoMapping {
        /// The TDI.
        id: InterfaceId,
    },
    /// A mapping is not made of whole pages of 4 KiB.
    #[error("{id}: {mapping} is not made of whole pages")]
    Unaligned {
        /// The TDI.
        id: InterfaceId,
        /// The mapping.
        mapping: Mapping,
    },
    /// The report does not make the bytes private.
    #[error("{id}: {} of {mapping} are not private", missing.dashed())]
    NotPrivate {
        /// The TDI.
        id: InterfaceId,
        /// The mapping.
        mapping: Mapping,
        /// Its first bytes that are not private, from the start of the BAR.
        missing: AddrRange,
    },
    /// The mapping conflicts with another one of the same request.
    #[error("{id}: {mapping} conflicts with {other}")]
    Conflict {
        /// The TDI.
        id: InterfaceId,
        /// The mapping.
        mapping: Mapping,
        /// The other one.
        other: Mapping,
    },
    /// The addresses or the bytes are not free.
    #[error("{id} is {state}: {mapping} is not free, because of {held}")]
    NotFree {
        /// The TDI.
        id: InterfaceId,
        /// Its state.
        state: TdiState,
        /// The mapping.
        mapping: Mapping,
        /// What occupies them.
        held: HeldMapping,
    },
    /// The guest has none of these addresses from the TDI.
    #[error("{id}: the guest has accepted nothing at {}", gpa.dashed())]
    NothingAccepted {
        /// The TDI.
        id: InterfaceId,
        /// The addresses.
        gpa: AddrRange,
    },
    /// The TDI would have more than [`MAX_MAPPINGS`](super::MAX_MAPPINGS) mappings.
    #[error("{id} cannot have more than {} mappings", super::MAX_MAPPINGS)]
    TooManyMappings {
        /// The TDI.
        id: InterfaceId,
    },
}
