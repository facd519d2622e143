// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Plans and applies the DMA mappings of assigned devices, and keeps them in step with guest memory.
//!
//! An assigned device accesses memory by IO virtual addresses (IOVAs), which are the guest's physical
//! addresses, through mappings in an IOMMU. The mappings must follow the guest's memory: RAM is added
//! and removed, and pages of a confidential guest become private. A device that can still write a
//! private page corrupts it, or the hardware stops the device.
//!
//! # How data flows
//!
//! | step | what it does |
//! | --- | --- |
//! | `listener::DmaListener`, `listener::RamListener` | turn changes of RAM and conversions of pages into a [`DmaChange`] |
//! | [`plan_dma_change`] | compares the change with the [`DmaTable`] and returns a [`DmaPlan`], as a pure function |
//! | [`apply_dma`] | carries the plan out on an [`AddressSpace`] and undoes it if a step fails |
//!
//! An [`AddressSpace`] is a VFIO container, an iommufd's IOAS, or a simulated one (`SimIommu`, feature
//! `sim`). The crate `vfio-private` implements the first two as `device::Iommu`. A VMM with another
//! model of guest memory can use the planner without a listener.
//!
//! # Example
//!
//! One page of a guest's RAM becomes private.
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
//! // x86 reserves 0xfee00000 to 0xfeefffff for interrupts.
//! let allowed = [range(0, 0xfee0_0000), range(0xfef0_0000, 0x7f_0110_0000)];
//! let limits = DmaLimits::new(0x1000, allowed, Some(65535))?;
//! let iommu = SimIommu::new(SimIommuKind::Type1, limits.clone());
//! let mut table = DmaTable::new();
//!
//! let owner = Arc::new("what keeps the memory mapped");
//! // SAFETY: nothing is mapped by a simulated IOMMU.
//! let memory = unsafe { HostMemory::new(0x7f00_0000_0000, 0x4000, owner) }.ok_or("no memory")?;
//! let ram = DmaRange::new(0x10_0000, memory, DmaAccess::ReadWrite)?;
//! // Each page is a mapping of its own, so that it can be unmapped by itself.
//! let ram = ram.in_units_of(0x1000)?;
//! let added = DmaChange { removed: &[], added: &[ram] };
//! let plan = plan_dma_change(&table, &added, &limits, Gaps::Refuse)?;
//! assert_eq!(plan.ops.len(), 4);
//! assert_eq!(plan.ops[0].to_string(), "MAP 0x100000-0x100fff to host 0x7f0000000000");
//! let _ = apply_dma(&iommu, &plan, &mut table)?;
//!
//! // The guest makes a page private. No device may reach it any more.
//! let removed = DmaChange { removed: &[range(0x10_1000, 0x1000)], added: &[] };
//! let plan = plan_dma_change(&table, &removed, &limits, Gaps::Refuse)?;
//! let _ = apply_dma(&iommu, &plan, &mut table)?;
//! assert!(iommu.reach(0x10_1000, false).is_none());
//! assert!(iommu.reach(0x10_2000, false).is_some());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Mappings are unmapped as a whole
//!
//! Neither a container (type1 v2) nor an iommufd unmaps a part of a mapping: one returns EINVAL, the
//! other ENOENT. To remove a page of a larger mapping, the whole mapping is unmapped and the rest is
//! mapped again. In between, devices cannot access the rest, although they may be using it. A plan
//! lists such [`gaps`](DmaPlan::gaps), and [`Gaps::Refuse`] refuses them.
//!
//! Memory that is converted in parts is therefore mapped in parts: see [`DmaRange::in_units_of`]. With
//! units of a page no conversion has a gap. The price is a mapping and a system call for each page. A
//! container allows 65535 mappings by default (`dma_entry_limit`), an iommufd any number, of which this
//! crate plans at most [`MOST_MAPPINGS`]: 16 GiB in units of 4 KiB. Choose larger units for a guest
//! that converts larger blocks, or that starts with all its memory shared. Mappings cannot be joined
//! either: what was mapped page by page stays so until it is unmapped.
//!
//! An IOMMU does not map a part of its own page. If that is larger than the pages that a guest converts,
//! devices cannot access the shared pages beside a private one. A plan lists them as
//! [left out](DmaPlan::left_out), and [`Gaps::Refuse`] refuses a change that would unmap them.
//!
//! Memory without a private side is one mapping for each range. It is cut only where the guest's memory
//! map changes, which is rare and happens before devices run.
//!
//! # What a device notices
//!
//! Unmapping does not wait for the device. It returns when the IOMMU and its caches have no
//! translation any more. Accesses in flight have then reached the old memory, or are stopped. The
//! IOMMU drops a stopped store and answers a stopped load with an error or with all ones. How the
//! device notices depends on the device. A VMM that wants to lose no access stops the device first:
//! clear its bus-master bit and wait for its transactions (PCI Express Base Specification,
//! 7.5.1.1.3).
//!
//! Mapping pins the memory: the pages stay in place until they are unmapped, whatever happens to the
//! host's mapping. If the pages are discarded meanwhile (`madvise`, a hole punched into a file), guest
//! and device no longer see the same bytes. So unmap first.
//!
//! # Which memory can be mapped
//!
//! A [`DmaRange`] takes a [`HostMemory`] or a [`FileSlice`], and no plain address. The creator of a
//! [`HostMemory`] has promised that devices may access it. Safe code that has an [`AddressSpace`], a
//! listener or the planner can therefore map such memory and no other.
//!
//! # What this crate does not do
//!
//! It makes no system call, opens no device and contains no `unsafe`. It does not build the view of
//! guest memory: that is the crate `memory-model`.
//!
//! # Features
//!
//! - `memory-model` (default): `listener::DmaListener`, which follows the views of the crate
//!   `memory-model`.
//! - `kvm-slots`: the conversions of the crate `kvm-slots`. `DmaListener` follows them, and so does
//!   `listener::RamListener`, which needs no memory model.
//! - `sim`: `SimIommu`, an IOMMU that follows the kernel's rules and maps nothing.
// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod apply;
mod error;
mod limits;
#[cfg(any(feature = "memory-model", feature = "kvm-slots"))]
pub mod listener;
mod plan;
mod range;
mod refusal;
#[cfg(feature = "sim")]
mod sim;
mod table;

pub use guest_ranges::{AddrRange, FileSlice, HostMemory, Owner, PageSet};

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
