// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What devices may reach by DMA: a planner for the mappings of an IOMMU.
//!
//! An assigned device reaches memory by IO virtual addresses, which are the guest's physical ones,
//! through mappings in an IOMMU. They have to follow the guest's memory: RAM comes and goes, and pages
//! of a confidential guest turn private, where a device that still writes them corrupts what is not
//! its own, or is stopped by the hardware.
//!
//! [`plan_dma_change`] says as a pure function which mappings go and come. [`apply_dma`] carries that
//! out on an [`AddressSpace`], the kernel's or a simulated one (`SimIommu`, feature `sim`), and takes it
//! back if a step fails. With the feature `device` there is `device::DmaSpace`, the kernel's.
//!
//! ```
//! use std::sync::Arc;
//! use vfio_private::Span;
//! use vfio_private::dma::{
//!     DmaAccess, DmaChange, DmaLimits, DmaRange, DmaTable, Gaps, plan_dma_change,
//! };
//!
//! // x86: interrupts are written to 0xfee00000, and so nothing else can be there.
//! let allowed = [Span::new(0, 0xfee0_0000)?, Span::new(0xfef0_0000, 0x7f_0110_0000)?];
//! let limits = DmaLimits::new(0x1000, allowed, Some(65535))?;
//! let ram = Span::new(0x10_0000, 0x4000)?;
//! let owner = Arc::new("what keeps the memory mapped");
//! let ram = DmaRange::host(ram, DmaAccess::ReadWrite, 0x7f00_0000_0000, owner)?;
//! let change = DmaChange { gone: &[], come: &[ram] };
//! let plan = plan_dma_change(&DmaTable::new(), &change, &limits, Gaps::Refuse)?;
//! assert_eq!(plan.ops.len(), 1);
//! assert_eq!(plan.ops[0].to_string(), "MAP 0x100000-0x103fff to host 0x7f0000000000");
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

mod apply;
mod limits;
mod plan;
mod range;
mod refusal;
#[cfg(feature = "sim")]
mod sim;
mod table;

pub use apply::{AddressSpace, DmaApplied, DmaApplyError, DmaNotUndone, apply_dma, undo_dma};
pub use limits::DmaLimits;
pub use plan::{
    DmaChange, DmaOp, DmaPlan, DmaPlanError, Gaps, LeftOut, MOST_MAPPINGS, plan_dma,
    plan_dma_change,
};
pub use range::{DmaAccess, DmaPlace, DmaRange, Owner};
pub use refusal::{DmaObstacle, DmaRefusal, DmaUnsupported};
#[cfg(feature = "sim")]
pub use sim::{SimIommu, SimIommuKind};
pub use table::DmaTable;
