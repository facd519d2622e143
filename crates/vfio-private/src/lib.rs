// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Decides which bytes of a VFIO device's BARs are private, shared, trapped or blocked, and why.
//!
//! A VMM that assigns a PCI device to a guest must decide for every byte of every BAR how the guest
//! reaches it. Most bytes may be mapped. The MSI-X table may not, nor the bytes that VFIO refuses to
//! map. In a confidential guest, the device's TDISP interface report lists the bytes that only the
//! guest may access. All of this works in host pages, and a device's registers rarely start on one.
//!
//! [`classify`] makes this decision as a pure function. It opens no file, makes no system call and
//! keeps no state. A VMM that maps BARs calls [`BarAreas::carve`](areas::BarAreas::carve) instead. It
//! makes the same decision without an allocation. Its result looks accesses up, and lists what to unmap
//! and map when the guest moves a BAR.
//!
//! | module | contents |
//! | --- | --- |
//! | crate root | [`classify`], its input ([`BarInput`], [`Policy`]) and its output ([`Piece`], [`Reason`]) |
//! | [`areas`] | the pieces in bounded arrays: what is mapped, trapped or reached by DMA, which area an access is in, moves of BARs |
//! | [`config`] | parses PCI configuration space: BARs, capabilities, MSI-X |
//! | [`region_info`], [`iommu_info`] | parse VFIO's region info and the IOMMU info of a container |
//! | [`report`] | parses a TDISP interface report and converts its pages to offsets in BARs |
//! | [`tdi`] | the life of a TEE device interface: lock, report, start, mappings, errors, reset |
//! | [`emulate`] | configuration space and the MSI-X table as the guest sees them |
//! | `device` (feature `device`) | opens a device through VFIO, maps and exports its BARs, its interrupts and its DMA |
//!
//! Bytes of a BAR are an [`AddrRange`] of offsets. Offsets count from the start of the BAR.
//!
//! # Example
//!
//! An NVMe-like device has a BAR of 16 KiB with the MSI-X structures in the middle.
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
//! // The registers below become private once the device has attested them. The guest cannot reach
//! // bytes that the report does not list.
//! let registers = [ReportedRange::new(0, 0x2000, TeeKind::Tee)?];
//! let attested = input.with_report(Some(&registers));
//! let access: Vec<Access> = classify(&attested, PageSize::Size4K, Policy::new())?
//!     .iter()
//!     .map(|piece| piece.access())
//!     .collect();
//! assert_eq!(access, [Access::Private, Access::Trap, Access::Blocked]);
//!
//! // A host with pages of 16 KiB cannot separate the registers from the table.
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
//! The report determines the access that a byte should have:
//!
//! | the byte is | access |
//! | --- | --- |
//! | of a device without a report | shared |
//! | in a TEE range | private |
//! | in a NON_TEE range | shared |
//! | in no range of the report | blocked |
//!
//! Host pages limit what is possible:
//!
//! - A page with a byte of the MSI-X table is trapped, including unreported bytes in it. So is a page
//!   with a byte of the pending bit array, unless the [`Policy`] maps it. A policy that relocates the
//!   structures maps both like any other page, and the guest sees emulated ones: see [`Relocation`].
//! - A shared byte is trapped instead if VFIO does not let userspace map its page, if the page also
//!   has unreported bytes, or if the BAR is smaller than a page (but see [`SubPagePolicy`]).
//!   Unreported bytes stay blocked.
//! - A private byte does not need to be mappable by userspace. It is exported as part of a dma-buf,
//!   whose ranges are whole host pages. So a page with private bytes must have no others. Otherwise
//!   the result is an error: sharing the page would expose the private bytes, and trapping it would
//!   give the guest's data to the VMM.
//! - A TEE range that the report marks to hold the MSI-X table or PBA is such an error too, unless
//!   the [`Policy`] leaves the structures to the guest: see [`TeeMsixPolicy`]. A marked NON_TEE range
//!   is trapped, but see [`ReportedRange::locks_host_out`]. A marked range without a byte of the
//!   structure is refused: it was converted to a wrong offset.
//! - I/O BARs are trapped.
//!
//! # Where the facts come from
//!
//! Three parsers decode the inputs of [`classify`]. They accept any bytes. Input that they cannot
//! parse to its end is an error that names the offset, never a shorter result.
//!
//! | bytes | parser | result |
//! | --- | --- | --- |
//! | PCI configuration space | [`ConfigSpace`](config::ConfigSpace) | kinds of BARs, sizes of those of Enhanced Allocation, [`Msix`] |
//! | VFIO region info | [`RegionInfo`](region_info::RegionInfo) | sizes, [`Region`] |
//! | TDISP interface report | [`InterfaceReport`], then [`place`](InterfaceReport::place) | [`ReportedRange`]s of each BAR |
//!
//! A report does not contain the offset of a page in its BAR. The rule that computes it is a
//! parameter, see [`OffsetRule`], and a report that does not fit the BARs is refused as a whole.
//! Ranges that belong to no BAR are [left out](PlacedReport::left_out).
//!
//! A fourth one, [`IommuInfo`](iommu_info::IommuInfo), parses VFIO's description of a container's IOMMU:
//! the limits of DMA mappings.
//!
//! The crate `bar-report` builds the same input from a device's files in sysfs and from the output of
//! `lspci`.
//!
//! # When a device does not answer
//!
//! While memory decoding is off or the device sleeps, no byte of a BAR is accessible, shared or
//! private. The same holds during a reset, by the guest or by the VMM. [`Reach`] reports before a write
//! to configuration space is made whether it has that effect.
//!
//! # The life of an interface
//!
//! A report is worth something only under the lock that the device had when it made it. The module
//! [`tdi`] follows the states of TDISP: it plans the steps of a lock, a start or a stop, records which
//! outcomes are known, and lists the ranges that the guest may still have. The VMM carries the steps
//! out.
//!
//! # What the guest sees
//!
//! The module [`emulate`] holds the guest's configuration space, in which the guest sizes and places
//! the BARs, and its MSI-X table. It is state without a device: a guest's write returns the effects
//! that the VMM must carry out.
//!
//! # Real devices
//!
//! None of the above needs a device. With the feature `device`, the module of that name opens one
//! through VFIO, queries the kernel for these facts, maps shared pieces, exports private ones as
//! dma-bufs, turns interrupts into eventfds, and maps memory for DMA. It is the only module with unsafe
//! code. The crate `vfio-dma` plans the DMA mappings; `device::Iommu` is the address space that it
//! maps in.
//!
//! # What this crate does not do
//!
//! It does not choose guest addresses: a BAR that moves has the same pieces as before, and [`areas`]
//! lists them at their new addresses. It delivers no interrupt to a guest, but reports which message a vector sends. It sends no TDISP message
//! and calls no security manager.
//!
//! # Features
//!
//! Without the features `device` and `vfio-dma`, the crate and its dependencies are `no_std` and need
//! only `alloc`.
//!
//! - `device`: opens real devices, with unsafe code for VFIO's system calls and the standard library.
//!   It includes `vfio-dma`.
//! - `vfio-dma`: conversions to the types of the crate `vfio-dma`, which plans DMA mappings.
//! - `sim`: `tdi::sim`, a security manager without hardware.

// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Only `device` makes system calls, and needs more than `alloc`.
#![cfg_attr(not(feature = "device"), no_std)]
#![cfg_attr(not(feature = "device"), forbid(unsafe_code))]
#![deny(unsafe_code)]

extern crate alloc;

pub mod areas;
mod bar;
mod bar_input;
mod bytes;
mod classify;
pub mod config;
#[cfg(feature = "device")]
#[allow(unsafe_code)]
pub mod device;
pub mod emulate;
mod error;
mod facts;
mod info_caps;
pub mod iommu_info;
mod isolation;
mod mappable;
mod msix;
mod piece;
mod policy;
mod reach;
mod reason;
pub mod region_info;
mod relocate;
pub mod report;
pub mod tdi;

pub use guest_ranges::{AddrRange, PageSize, PageSizeError};

pub use bar::{Bar, BarIndex, BarKind, BarRange, InputError};
pub use bar_input::{BarInput, Region, ReportedRange, SparseArea, TeeKind};
pub use classify::classify;
pub use error::{ClassifyError, Neighbour};
pub use msix::{Msix, MsixPart, MsixParts};
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
