// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Converts pages between private and shared.
//!
//! A confidential guest decides which of its pages the host may access. It
//! requests a conversion by a hypercall, by an access to a page in the other
//! state, or by accepting private MMIO. Each becomes a [`Request`]:
//!
//! ```text
//! hypercall ────┐
//! memory fault ─┼─> Request ─ check ─ plan ─> ConversionPlan ─ switch ──> settle
//! acceptance ───┘              ^                               │           │
//!                          GuestPages                      listeners,   discards,
//!                              ^                           attributes   listeners
//!                              └───────── new states ──────────────────────┘
//! ```
//!
//! [`plan_conversion`] is a pure function: it finds the pages that really change
//! and their memory. An [`Engine`] carries out the plan. A [`Converter`] is an
//! engine for all vCPU threads. Slots do not track which pages are private.
//!
//! The state itself is in the kernel, or with a platform: see [`Home`].
//!
//! # All or nothing
//!
//! A guest's hypercall has one return value, and a guest that gets an error must
//! know what it may access. So a request succeeds as a whole or not at all: one
//! page that cannot change refuses the request.
//!
//! | page | to private | to shared |
//! | --- | --- | --- |
//! | host memory and guest_memfd | yes; the shared bytes are stale | yes; the private bytes are stale |
//! | both in one guest_memfd | yes, in place | yes, in place |
//! | guest_memfd alone | yes | refused: [`Refusal::NoSharedSide`] |
//! | private MMIO | yes: the guest accepts it | yes: the guest gives it back |
//! | other memory, device registers, a hole | refused: [`Refusal::NoPrivateSide`] | yes; it was shared before, or its memory was removed |
//!
//! Guests make holes shared while they boot, to reach emulated registers. So a hole
//! is no reason to refuse.
//!
//! A page here is a page of the host. A request for other pages is refused
//! ([`RequestError::Unaligned`]), except that a memory fault may start inside a host
//! page ([`Request::memory_fault`]). A host page of more than 4 KiB that is not entirely
//! in one stretch of memory has no memslot and no bytes of its own to discard: it
//! counts as other memory.
//!
//! # The order of steps
//!
//! To private: listeners prepare, attributes change, stale shared bytes are
//! discarded. No device has the shared pages when the guest loses them, and the
//! bytes are freed when neither guest nor device can access them. If a rollback makes
//! pages private again and a listener cannot release them, they stay shared.
//!
//! To shared: attributes change, listeners prepare, stale private bytes are
//! discarded. Devices get pages that the guest already has as shared. If both
//! sides are in one file, devices could not map the pages earlier.
//!
//! If one vCPU converts a page while another vCPU accesses it, the page changes
//! under the second one, as on hardware. The guest has to avoid that.
//!
//! Discarding comes last because it cannot be undone. A failed discard does not
//! undo the conversion, since the host only has less free memory. It is reported
//! in [`Converted::not_discarded`].
//!
//! # Bounds
//!
//! A guest can alternate private and shared pages. A request for many such pages is
//! planned in parts of 4096 stretches, so that plans have a bounded size. With
//! [`Home::VmAttributes`], each part costs one ioctl for its attributes, and one more
//! wherever more than 64 pages lie between two changes: KVM stores an attribute for every
//! page of a call, and a guest must not have it do so for the addresses between two pages
//! that are far apart. With the other homes, a part costs one call for each run of adjacent
//! pages, or none ([`Home::Slot`]). In addition, it costs one call for each range of memory
//! with stale bytes.
//!
//! Each part is planned twice: to change its attributes, and to settle it after all
//! parts have succeeded. Until then the recorded state does not change, so a
//! rollback finds the old state there and needs no list of what was done.
//!
//! The state of the pages is bounded too, wherever a guest moves its memory: see
//! [`ConvertibleMemory`], and `MemoryModel::set_state_limit` of `memory-model`. A
//! request that would exceed the limit is refused ([`Refusal::NoRoom`]).
//!
//! # Private MMIO
//!
//! A guest accepts private MMIO by making it private. From then on its range cannot
//! change ([`ConvertibleMemory::set_ranges`]; a memory model refuses the
//! transaction) until the guest makes it shared or the host
//! [revokes](Converter::revoke) it. The host has no memory for it, so nothing is
//! discarded, and a DMA mapper skips it.
//!
//! # Example
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//! use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
//! use kvm_slots::{AbiProfile, SlotBacking, DeviceFile, FileSlice, SlotAccess, SlotRange};
//! use kvm_slots::convert::{Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, Home};
//!
//! let vm = SimVm::new(SimConfig {
//!     private_pages: true,
//!     vm_type: VmType::SwProtected,
//!     abi: AbiProfile::FD_OFFSET_BIT_4,
//!     ..SimConfig::released(KernelVersion::V7_3)
//! });
//! let registers = Arc::new(vm.create_dma_buf(0x4000)?);
//! let registers = FileSlice::new(registers, 0, 0x4000).ok_or("empty")?;
//! let registers = SlotBacking::FdOffset(DeviceFile::new(registers));
//! let bar = SlotRange::new(0xe000_0000, SlotAccess::ReadWrite, registers)?;
//! let mut memory = ConvertibleMemory::new();
//! memory.set_ranges(ConvertibleRange::new(&bar, GuestMemfdSides::Private))?;
//!
//! let home = Home::probe(&vm)?;
//! let converter = Converter::new(vm, home, memory);
//! // The guest calls KVM_HC_MAP_GPA_RANGE: two pages, encrypted.
//! let accepted = converter.hypercall(0xe000_0000, 2, 1 << 4)?;
//! assert_eq!(accepted.bytes, 0x2000);
//! // A hole cannot be private, so the whole request fails.
//! let refused = converter.hypercall(0xe000_2000, 3, 1 << 4).unwrap_err();
//! assert_eq!(refused.hypercall_return(), -22);
//! // Accepted pages cannot be removed.
//! let changed = converter.with_pages(|memory| memory.set_ranges(None))?;
//! assert!(changed.is_err());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod converter;
mod engine;
mod error;
#[cfg(all(feature = "memory-model", feature = "vm-memory"))]
mod guest_memory;
mod home;
mod host_pages;
mod listener;
mod memory;
#[cfg(feature = "memory-model")]
mod model;
mod pages;
mod panics;
mod plan;
mod pre_fault;
mod release;
mod request;
mod rollback;
mod settle;
mod sides;
#[cfg(feature = "memory-model")]
mod stays;
mod switch;

pub use crate::vm::discard::Discard;
pub use check::Refusal;
pub use converter::Converter;
pub use engine::Engine;
pub use error::{
    ConversionFailure, ConvertError, Converted, FailedStep, Failures, NotChanged, NotConvertedBack,
    Revoked,
};
pub use guest_ranges::{GuestMemfdSides, PageRange, PageState};
pub use home::Home;
pub use listener::{Conversion, ConversionListener, ConversionListenerError};
pub use memory::{ConvertibleMemory, MemoryError};
#[cfg(feature = "memory-model")]
pub use model::ModelPages;
pub use pages::GuestPages;
pub use plan::{ConversionPlan, plan_conversion};
pub use pre_fault::PreFault;
pub use request::{Request, RequestError};
pub use sides::{ConvertibleRange, Sides, Stretch};
#[cfg(feature = "memory-model")]
pub use stays::{PrivateMoves, PrivateStays};
