// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tracks written pages: merges KVM's dirty logs or rings with the VMM's own
//! writes.
//!
//! ```text
//! guest ── KVM's logs or rings ── DirtyCollector ─┐
//!               ^ read before an Op that          ├─ DirtyTracker ─ DirtyClient ─> DirtyPages
//!               │ would discard the log           │
//! VMM and its devices ─── mark ───────────────────┘
//! ```
//!
//! A [`DirtyCollector`] reads KVM's logs or rings, by one of three [`DirtyMode`]s,
//! into a [`DirtyTracker`]. The VMM adds its own writes
//! ([`DirtyTracker::mark`]). Each [`DirtyClient`], such as a display or a
//! migration, takes the pages that were written since it last took them.
//!
//! Pages are identified by their **host address**, because the memory is written,
//! wherever the guest sees it. So no page is lost or reported under a wrong
//! address when a slot moves, is split, or is deleted. [`DirtyPages::in_slot`]
//! finds the current guest-physical addresses of pages.
//!
//! The collector is the [`OpWatcher`] of
//! [`Slots::with_watcher`](crate::Slots::with_watcher).
//!
//! # KVM's rules
//!
//! | KVM | so the collector |
//! | --- | --- |
//! | discards a log with its slot or its flag: [`Op::ends_log`](crate::Op::ends_log) | reads the log first, and refuses the operation if it cannot |
//! | loses writes between that read and the operation | cannot help: hold vCPUs for such a plan, [`Plan::ends_log`](crate::Plan::ends_log) |
//! | keeps the log of a slot that moves | leaves it |
//! | names slots by number in ring entries, and reuses numbers | empties the rings before a slot is deleted |
//! | does not log a write to a page that was read but is not yet protected again | protects pages before clients can take them |
//! | clears multiples of 64 pages, or up to the end of the slot, and holds the MMU lock | clears dirty pages in calls of at most 2^18 pages |
//! | enables rings only before the first vCPU, and excludes logs unless they are enabled beside the rings before the first slot | has one mode for the life of a VM |
//! | writes to guest memory without a vCPU on Arm, which only logs report | enables logs beside rings there, and reads them at the end: [`DirtyCollector::collect_final`] |
//! | has no log for guest_memfd and private MMIO | lists such slots with the reason: [`SlotTable::unlogged`](crate::SlotTable::unlogged) |
//!
//! # Example
//!
//! A display asks for the pages that were drawn after their slot is deleted:
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//!
//! use kvm_slots::dirty::{DirtyCollector, DirtyMode};
//! use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
//! use kvm_slots::{
//!     AbiProfile, SlotBacking, Capabilities, HostMemory, SlotAccess, SlotRange, Slots,
//! };
//!
//! let vm = SimVm::new(SimConfig::released(KernelVersion::V6_18));
//! let collector = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), DirtyMode::Log)?;
//! let collector = Arc::new(collector);
//! let display = collector.tracker().client();
//! // SAFETY: no guest runs. A VMM passes a mapping and its owner.
//! let memory = unsafe { HostMemory::new(0x7f00_0000_0000, 0x10_0000, Arc::new(())) };
//! let memory = memory.ok_or("empty")?;
//! let drawn_at = memory.address() + 0x3000;
//! let memory = SlotBacking::Host(memory);
//! let frame_buffer = SlotRange::new(0xd000_0000, SlotAccess::ReadWrite, memory)?;
//! let frame_buffer = frame_buffer.with_log_dirty(true);
//! // SAFETY: no one else makes slots of this VM.
//! let slots = unsafe { Slots::new(vm, AbiProfile::None) };
//! let mut slots = slots.with_watcher(collector.clone());
//! let here = slots.plan(&[frame_buffer])?;
//! slots.apply(&here)?;
//!
//! // The VMM draws. What a guest draws is in KVM's log.
//! assert!(collector.tracker().mark_guest(slots.table(), 0xd000_3000, 4));
//! let none = slots.plan(&[])?;
//! assert!(none.ends_log());
//! // The collector reads the log before the slot is deleted.
//! slots.apply(&none)?;
//!
//! let drawn = display.take_all();
//! assert!(drawn.contains(drawn_at));
//! assert_eq!(drawn.len(), 1);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clears;
pub(crate) mod collector;
mod error;
pub(crate) mod ops;
pub(crate) mod pages;
mod rings;
pub(crate) mod tracker;
pub(crate) mod unlogged;
pub(crate) mod vm;

#[cfg(feature = "dirty-ring")]
pub use crate::vm::ioctl::VcpuDirtyRing;
pub use collector::DirtyCollector;
pub use error::DirtyError;
pub use ops::OpWatcher;
pub use pages::DirtyPages;
pub use tracker::{DirtyClient, DirtyTracker};
pub use unlogged::{Unlogged, UnloggedSlot};
pub use vm::{
    DirtyCapabilities, DirtyEntry, DirtyMode, DirtyRing, LoggingVm, ManualProtect, RingId,
};
