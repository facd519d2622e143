// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Converting pages between private and shared.
//!
//! A confidential guest says which of its pages the host may touch. It says so
//! by a hypercall, or by touching a page as what it is not; private MMIO it
//! accepts. All are a [`Request`], and take one way:
//!
//! ```text
//! hypercall ────┐
//! memory fault ─┼─> Request ─┐
//! acceptance ───┘            ├─ plan_conversion ─> ConversionPlan ─ Engine ─> listeners,
//! GuestPages ────────────────┘                                        │       attributes,
//!     ^──────────────────── what has changed hands ───────────────────┘       discards
//! ```
//!
//! [`plan_conversion`] is a pure function: it finds the pages that really
//! change, and what lies behind them. An [`Engine`] carries that out; a
//! [`Converter`] is one for all vCPU threads.
//!
//! # All or nothing
//!
//! A guest's hypercall has one return value. A guest that gets an error
//! has to know what it may touch, so a request is met as a whole or not at all:
//! one page that cannot be as asked refuses it.
//!
//! | page | to private | to shared |
//! | --- | --- | --- |
//! | host memory and guest_memfd | yes; the shared bytes are stale | yes; the private bytes are stale |
//! | both in one guest_memfd | yes, in place | yes, in place |
//! | guest_memfd alone | yes | refused: [`Refusal::NoSharedSide`] |
//! | private MMIO | yes: that is acceptance | yes: the guest gives it back |
//! | other memory, device registers, a hole | refused: [`Refusal::NoPrivateSide`] | yes; it was shared before, or its memory is gone |
//!
//! Guests make holes shared as they boot, to reach emulated registers: that
//! nothing is there is no reason to refuse.
//!
//! # The order of steps
//!
//! To private: listeners prepare, attributes, stale shared bytes. No device is
//! left on the shared pages when the guest loses them, and they are freed when
//! neither guest nor device can bring them back.
//!
//! To shared: attributes, listeners prepare, stale private bytes. Devices get
//! pages that the guest has as shared already; where both sides are in one
//! file, they could not be mapped before.
//!
//! In between, a page that one vCPU converts can change under another vCPU that
//! touches it, as it does on hardware: the guest has to keep them apart.
//!
//! Discarding comes last because it cannot be undone. A discard that fails does
//! not undo the conversion: what is wrong is that the host has less memory
//! than it could. It is reported ([`Converted::not_discarded`]).
//!
//! # Bounds
//!
//! A guest can alternate its pages. A request over many such pages is planned
//! in parts of 4096 stretches, so that no plan grows with it, and each part takes
//! one ioctl for its attributes and one call for each range of memory that has
//! stale bytes. The state has a bound too, wherever a guest moves its memory:
//! see [`ConvertibleMemory`], and `MemoryModel::set_state_limit` of
//! `memory-model`. What would outgrow it is refused ([`Refusal::NoRoom`]).
//!
//! # Private MMIO
//!
//! To make private MMIO private is to accept it. From then on its range cannot
//! change ([`ConvertibleMemory::set_ranges`]; a memory model refuses the
//! transaction) before the guest has made it shared again or the host has
//! [revoked](Converter::revoke) it. The host has no side of it, so nothing is
//! discarded, and a mapper for DMA passes over it.
//!
//! # Example
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//! use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
//! use kvm_slots::{AbiProfile, Backing, DeviceFile, FileSlice, SlotAccess, SlotRange};
//! use kvm_slots::convert::{Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides};
//!
//! let vm = SimVm::new(SimConfig {
//!     private_pages: true,
//!     vm_type: VmType::SwProtected,
//!     abi: AbiProfile::FD_OFFSET_BIT_4,
//!     ..SimConfig::released(KernelVersion::V7_3)
//! });
//! let registers = Arc::new(vm.create_dma_buf(0x4000)?);
//! let registers = FileSlice::new(registers, 0, 0x4000).ok_or("empty")?;
//! let registers = Backing::FdOffset(DeviceFile::new(registers));
//! let bar = SlotRange::new(0xe000_0000, SlotAccess::ReadWrite, registers)?;
//! let mut memory = ConvertibleMemory::new();
//! memory.set_ranges(ConvertibleRange::new(&bar, GuestMemfdSides::Private))?;
//!
//! let converter = Converter::new(vm, memory);
//! // The guest calls KVM_HC_MAP_GPA_RANGE: two pages, encrypted.
//! let accepted = converter.hypercall(0xe000_0000, 2, 1 << 4)?;
//! assert_eq!(accepted.bytes, 0x2000);
//! // A hole cannot be private, and so nothing of this is.
//! let refused = converter.hypercall(0xe000_2000, 3, 1 << 4).unwrap_err();
//! assert_eq!(refused.hypercall_return(), -22);
//! // What the guest has accepted stays where it is.
//! let gone = converter.with_pages(|memory| memory.set_ranges(None))?;
//! assert!(gone.is_err());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod converter;
mod engine;
mod error;
mod listener;
mod memory;
#[cfg(feature = "memory-model")]
mod model;
mod pages;
mod plan;
mod request;
mod rollback;
mod settle;
mod sides;
mod switch;

pub use crate::discard::Discard;
pub use check::Refusal;
pub use converter::Converter;
pub use engine::Engine;
pub use error::{
    ConversionFailure, ConvertError, Converted, FailedStep, Failures, NotConvertedBack, Revoked,
};
pub use guest_ranges::{GuestMemfdSides, PageRange, PageState};
pub use listener::{Conversion, ConversionListener, ConversionListenerError};
pub use memory::{ConvertibleMemory, MemoryError};
#[cfg(feature = "memory-model")]
pub use model::ModelPages;
pub use pages::GuestPages;
pub use plan::{ConversionPlan, plan_conversion};
pub use request::{Request, RequestError};
pub use sides::{ConvertibleRange, Sides, Stretch};
