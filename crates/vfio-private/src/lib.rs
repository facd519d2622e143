// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which bytes of a VFIO device's BARs are private, shared, trapped or blocked, and why.
//!
//! A VMM that assigns a PCI device to a guest must decide for every byte of every BAR how the
//! guest reaches it. Most may be mapped; the MSI-X table may not, nor what VFIO refuses to map; and
//! in a confidential guest the device's TDISP interface report sets apart what only the guest may
//! reach. All of it happens in host pages, which rarely fall where the device's registers do.
//!
//! [`classify`] makes this decision as a pure function. It opens no file, makes no system call and
//! keeps no state.
//!
//! # Example
//!
//! An NVMe-like device: a BAR of 16 KiB with the MSI-X structures in the middle.
//!
//! ```
//! use vfio_private::{
//!     Access, Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region, ReportedRange,
//!     TeeKind, classify,
//! };
//!
//! let index = BarIndex::new(0)?;
//! let bar = Bar::new(index, BarKind::Memory, 0x4000)?;
//! let region = Region::mappable();
//! let msix = Msix::with_vectors(33, (index, 0x2000), (index, 0x2800))?;
//! let input = BarInput::new(bar, &region).with_msix(Some(msix));
//! let pieces = classify(&input, PageSize::Size4K, Policy::new())?;
//! assert_eq!(pieces.len(), 3);
//! assert_eq!(pieces[1].access(), Access::Trap);
//! assert!(pieces[0].kvm_mappable() && !pieces[1].kvm_mappable());
//! assert_eq!(
//!     pieces[1].to_string(),
//!     "0x2000-0x2fff trap: host page holds the MSI-X table; \
//!      host page holds the MSI-X pending bit array (PBA)",
//! );
//!
//! // The registers below become private once the device has attested them. What the report does
//! // not list, the guest cannot reach.
//! let registers = [ReportedRange::new(0, 0x2000, TeeKind::Tee)?];
//! let attested = input.with_report(Some(&registers));
//! let access: Vec<Access> = classify(&attested, PageSize::Size4K, Policy::new())?
//!     .iter()
//!     .map(|piece| piece.access())
//!     .collect();
//! assert_eq!(access, [Access::Private, Access::Trap, Access::Blocked]);
//!
//! // A host with pages of 16 KiB cannot tell the registers from the table.
//! let error = classify(&attested, PageSize::Size16K, Policy::new()).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "BAR 0: private range 0x0-0x1fff shares the host page 0x0-0x3fff \
//!      with the MSI-X table 0x2000-0x220f",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//!
//! The report says what is wished for:
//!
//! | the byte is | access |
//! | --- | --- |
//! | in no report, as there is none | shared |
//! | in a TEE range | private |
//! | in a NON_TEE range | shared |
//! | in a report's gap | blocked |
//!
//! Host pages say what can be had:
//!
//! - A page with a byte of the MSI-X table is trapped, unreported bytes in it included. So is a
//!   page with a byte of the pending bit array, unless the [`Policy`] is to map it. By the policy to
//!   relocate, both are mapped like anything else, and the guest is shown others: see [`Relocation`].
//! - What would be shared is trapped instead if VFIO does not let userspace map its page, or if
//!   the page also has unreported bytes, or if the BAR is smaller than a page (but see
//!   [`SubPagePolicy`]). Unreported bytes stay blocked.
//! - What would be private needs no permission to be mapped by userspace: it is never mapped there,
//!   but exported as a dma-buf, whose ranges must be whole host pages. A page with private bytes
//!   must have no others. If it does, the answer is an error: to share the page would expose it,
//!   to trap it would hand the guest's data to the VMM.
//! - A TEE range that the report marks to hold the MSI-X table or PBA is such an error too, unless
//!   the [`Policy`] leaves the structures to the guest: see [`TeeMsixPolicy`]. A NON_TEE range that
//!   is marked traps, but see [`ReportedRange::locks_host_out`]. A marked range that holds no byte of
//!   the structure is refused: it was converted to a wrong offset.
//! - I/O BARs are trapped.
//!
//! # Where the facts come from
//!
//! Three parsers turn bytes from outside into the input of [`classify`]. They take any bytes: what
//! they cannot follow is an error that names the offset, and never a shorter answer.
//!
//! | bytes | parser | gives |
//! | --- | --- | --- |
//! | PCI configuration space | [`ConfigSpace`](config::ConfigSpace) | kinds of BARs, sizes of those of Enhanced Allocation, [`Msix`] |
//! | VFIO region info | [`RegionInfo`](region_info::RegionInfo) | sizes, [`Region`] |
//! | TDISP interface report | [`InterfaceReport`], then [`place`](InterfaceReport::place) | [`ReportedRange`]s of each BAR |
//!
//! A report does not say at which offset of a BAR a page is. The rule for that is a parameter, see
//! [`OffsetRule`], and a report that does not fit the BARs is refused as a whole. Ranges that stand for
//! no BAR are [left out](PlacedReport::left_out).
//!
//! The crate `bar-report` makes the same input from a device's files in sysfs and from text of `lspci`.
//!
//! # When it is out of reach
//!
//! While memory decoding is off or the device sleeps, nothing of a BAR can be had, shared or private.
//! [`Reach`] says of a write to configuration space, before it is made, whether it comes to that. A reset
//! does so too, for as long as it takes: one that the guest starts by such a write, and one by the VMM.
//!
//! # What the guest sees
//!
//! The module [`emulate`] has configuration space as the guest has it, where it finds the sizes of BARs
//! and gives them their places, and the MSI-X table. It is state without a device: a guest's write
//! returns the effects that the VMM has to follow.
//!
//! # Real devices
//!
//! All that is said above needs no device. With the feature `device` there is a module of that name which
//! opens one through VFIO, asks the kernel for these facts, does with each piece what its access
//! calls for, turns the device's interrupts into eventfds, and maps memory for DMA. It alone has unsafe
//! code. The crate `vfio-dma` plans which memory devices reach; `device::Iommu` is the address space
//! that it maps in.
//!
//! # What this does not do
//!
//! It does not choose guest addresses: pieces are offsets in the BAR. A BAR that moves has the same
//! pieces as before. It delivers no interrupt to a guest: it says as which message.

// System calls need it, and only they: `device` alone may.
#![cfg_attr(not(feature = "device"), forbid(unsafe_code))]
#![deny(unsafe_code)]

mod bar;
mod bytes;
mod classify;
pub mod config;
#[cfg(feature = "device")]
#[allow(unsafe_code)]
pub mod device;
pub mod emulate;
mod error;
mod facts;
mod page;
mod piece;

mod isolation;
mod policy;
mod reach;
mod reason;
pub mod region_info;
mod relocate;
pub mod report;

pub use guest_ranges::AddrRange;

pub use bar::{
    Bar, BarIndex, BarInput, BarKind, BarRange, Msix, MsixParts, Region, ReportedRange, SparseArea,
    TeeKind,
};
pub use classify::classify;
pub use error::{ClassifyError, InputError, MsixPart, Neighbour};
pub use page::PageSize;
pub use piece::{Access, Piece};
pub use policy::{MsixPlacement, PbaPolicy, Policy, SubPagePolicy, TeeMsixPolicy};
pub use reach::{Cause, Reach, ReachChange, ReachEvent};
pub use reason::{Reason, Reasons};
pub use relocate::Relocation;
pub use report::{InterfaceReport, LeftOut, OffsetRule, PlaceError, PlacedReport};

/// Runs the code of the README as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
