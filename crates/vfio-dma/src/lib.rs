// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA mappings that follow guest memory.
//!
//! An assigned device reaches memory by IO virtual addresses, which are the guest's physical ones,
//! through mappings in an IOMMU. They have to follow the guest's memory: RAM is added and removed, and
//! pages of a confidential guest turn private, where a device that still writes them corrupts what is
//! not its own, or is stopped by the hardware.
//!
//! # How data flows
//!
//! | step | what it does |
//! | --- | --- |
//! | [`DmaListener`](listener::DmaListener) | turns changes of a view, and conversions, into a [`DmaChange`] |
//! | [`plan_dma_change`] | compares it with the [`DmaTable`] and returns a [`DmaPlan`], as a pure function |
//! | [`apply_dma`] | carries the plan out on an [`AddressSpace`], and undoes it if a step fails |
//!
//! An [`AddressSpace`] is a VFIO container, an iommufd's IOAS, or a simulated one
//! (`SimIommu`, feature `sim`). The crate `vfio-private` implements it for the kernel's
//! (`device::Iommu`). Any other model of guest memory can use the planner without the
//! listener.
//!
//! # Example
//!
//! RAM of a guest, one page of which becomes private.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//!
//! use guest_ranges::{AddrRange, HostMemory};
//! use vfio_dma::{
//!     DmaAccess, DmaChange, DmaLimits, DmaRange, DmaTable, Gaps, SimIommu, SimIommuKind, apply_dma,
//!     plan_dma_change,
//! };
//!
//! let range = |start, size| AddrRange::new(start, size).unwrap();
//! // x86: interrupts are written to 0xfee00000, and so nothing else can be there.
//! let allowed = [range(0, 0xfee0_0000), range(0xfef0_0000, 0x7f_0110_0000)];
//! let limits = DmaLimits::new(0x1000, allowed, Some(65535))?;
//! let iommu = SimIommu::new(SimIommuKind::Type1, limits.clone());
//! let mut table = DmaTable::new();
//!
//! let owner = Arc::new("what keeps the memory mapped");
//! // SAFETY: nothing is mapped by a simulated IOMMU.
//! let memory = unsafe { HostMemory::new(0x7f00_0000_0000, 0x4000, owner) }.ok_or("no memory")?;
//! let ram = DmaRange::new(0x10_0000, memory, DmaAccess::ReadWrite)?;
//! // Each page is a mapping, so that it can be unmapped by itself.
//! let ram = ram.in_units_of(0x1000)?;
//! let added = DmaChange { removed: &[], added: &[ram] };
//! let plan = plan_dma_change(&table, &added, &limits, Gaps::Refuse)?;
//! assert_eq!(plan.ops.len(), 4);
//! assert_eq!(plan.ops[0].to_string(), "MAP 0x100000-0x100fff to host 0x7f0000000000");
//! let _ = apply_dma(&iommu, &plan, &mut table)?;
//!
//! // The guest makes a page private: no device may reach it.
//! let removed = DmaChange { removed: &[range(0x10_1000, 0x1000)], added: &[] };
//! let plan = plan_dma_change(&table, &removed, &limits, Gaps::Refuse)?;
//! let _ = apply_dma(&iommu, &plan, &mut table)?;
//! assert!(iommu.reach(0x10_1000, false).is_none());
//! assert!(iommu.reach(0x10_2000, false).is_some());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A mapping goes as a whole
//!
//! Neither a container (type1 v2) nor an iommufd unmaps a part of a mapping: the one says EINVAL, the
//! other ENOENT. So where a page of a larger mapping is to go, all of it goes, and the rest comes back
//! as other mappings. In between devices do not reach the rest, though they may be using it. A plan
//! lists such [`gaps`](DmaPlan::gaps), and [`Gaps::Refuse`] refuses them.
//!
//! What is known to change in parts is therefore mapped in parts: [`DmaRange::in_units_of`]. With units
//! of a page no conversion has a gap. The price is a mapping, and a system call, for each page: a
//! container takes 65535 by default (`dma_entry_limit`), an iommufd any number. Larger units are
//! right for a guest that converts larger blocks, or one that starts with all its memory shared. There is
//! no third way: mappings cannot be joined either, so what has come page by page stays in pages until
//! it goes.
//!
//! Memory that cannot be private is one mapping a range. It is cut only where the guest's memory map
//! changes, which is rare and happens before devices run.
//!
//! # What a device notices
//!
//! Unmapping does not wait for the device. It returns when the IOMMU has forgotten the translation,
//! in its caches too; what was under way has then either reached the old memory, or will be stopped. A
//! store that is stopped is dropped, a load gets an error or all ones, and the device finds out in its
//! own way, if it does. A VMM that wants to lose nothing stops the device before: clear its bus-master
//! bit and wait for its transactions (PCI Express Base Specification, 7.5.1.1.3).
//!
//! Mapping pins the memory: the pages stay where they are until they are unmapped, whatever happens to
//! the host's mapping. If those are discarded meanwhile (`madvise`, a hole punched into a file), guest
//! and device no longer see the same bytes. So unmap first.
//!
//! # What this crate does not do
//!
//! It makes no system call, opens no device and contains no `unsafe`. It creates no memory to map: a
//! [`DmaRange`] takes a [`HostMemory`](guest_ranges::HostMemory) or a
//! [`FileSlice`](guest_ranges::FileSlice), whose creator has promised that devices may access it. So
//! safe code that has an [`AddressSpace`], a listener or the planner can map such memory and no other.
//!
//! # Features
//!
//! - `memory-model` (default): [`listener`], which follows the views of the crate `memory-model`.
//! - `kvm-slots`: the listener follows the conversions of the crate `kvm-slots`, too.
//! - `sim`: `SimIommu`, an IOMMU that follows the kernel's rules and maps nothing.
#![forbid(unsafe_code)]

mod apply;
mod error;
mod limits;
#[cfg(feature = "memory-model")]
pub mod listener;
mod plan;
mod range;
mod refusal;
#[cfg(feature = "sim")]
mod sim;
mod table;

pub use apply::{AddressSpace, DmaApplied, DmaApplyError, DmaNotUndone, apply_dma, undo_dma};
pub use error::DmaInputError;
pub use limits::DmaLimits;
pub use plan::{
    DmaChange, DmaOp, DmaPlan, DmaPlanError, Gaps, LeftOut, MOST_MAPPINGS, plan_dma,
    plan_dma_change,
};
pub use range::{DmaAccess, DmaMemory, DmaRange};
pub use refusal::{DmaObstacle, DmaRefusal, DmaUnsupported};
#[cfg(feature = "sim")]
pub use sim::{SimIommu, SimIommuKind};
pub use table::DmaTable;

/// The example of the README.
#[cfg(all(doctest, feature = "memory-model", feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
