// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest-physical ranges, sets of pages and pieces of host memory.
//!
//! The crates that describe, map and convert a guest's memory share these types,
//! so that a range or a mapping passes from one to the next unchanged.
//!
//! | type | what it is |
//! | --- | --- |
//! | [`AddrRange`] | addresses: never empty, never wraps, reaches 2^64 |
//! | [`PageSize`] | the host's page size: what the kernel maps and reports in |
//! | [`PageRange`] | whole units of guest page state, of 4 KiB each |
//! | [`walk()`] | one pass over two sorted lists of ranges; [`overlap()`], [`subtract()`] and [`gaps()`] derive from it |
//! | [`coalesce()`] | joins ranges that touch or overlap |
//! | [`RangeSet`] | a set of addresses, as few ranges |
//! | [`PageSet`] | a set of pages in bounded memory, whichever pages a guest chooses |
//! | [`PageState`] | whether a page is private or shared |
//! | [`HostMemory`] | host memory: an address, a size, and the owner that keeps it mapped |
//! | [`FileSlice`] | bytes of a file: an open descriptor, an offset and a size |
//!
//! # Example
//!
//! A guest has made some pages of its RAM private. Devices may access the rest.
//!
//! ```
//! use guest_ranges::{AddrRange, PageSet, gaps};
//!
//! let ram = AddrRange::new(0, 0x10_0000).unwrap();
//! let mut private = PageSet::new();
//! private.insert(AddrRange::new(0x4000, 0x2000).unwrap());
//! private.insert(AddrRange::new(0x6000, 0x1000).unwrap());
//!
//! let shared: Vec<AddrRange> = gaps(ram, private.within(ram)).collect();
//! assert_eq!(shared[0], AddrRange::from_bounds(0, 0x3fff).unwrap());
//! assert_eq!(shared[1], AddrRange::from_bounds(0x7000, 0xf_ffff).unwrap());
//! ```
//!
//! # Page sizes
//!
//! Two sizes must not be confused:
//!
//! | size | unit of |
//! | --- | --- |
//! | [`PAGE_SIZE`], 4 KiB, on every host | the state of guest pages (private, accepted), and what a guest or a device says about pages: hypercalls, TDISP reports. [`PageRange`] and [`PageSet`] have this unit |
//! | [`PageSize`], 4, 16 or 64 KiB: the host's | everything that the kernel does: memslots, memory attributes, bits of dirty logs, entries of dirty rings, offsets in guest_memfds and dma-bufs, mappings of the process, DMA |
//!
//! A host page is one or more units. Code that passes pages to the kernel requires whole
//! host pages ([`PageRange::is_whole`]), and refuses others with a typed error; nothing
//! is rounded silently. [`PageRange::pages`] and [`PageSet::pages`] count units of
//! 4 KiB. Numbers of pages that the kernel counts are numbers of host pages
//! ([`PageSize::number`]). Sizes and addresses are bytes.
//!
//! # Safety of host memory
//!
//! A VMM gives host memory to a guest, which reads and writes it behind the
//! compiler's back. Only the code that maps the memory can know whether that is
//! sound. [`HostMemory::new`] is therefore `unsafe`: its caller promises that the
//! guest may access these bytes for as long as the owner lives. A slice of a
//! [`HostMemory`] inherits the promise, and so do slices of one owner that are joined.
//! With the feature `vm-memory`, mappings of that crate become [`HostMemory`] too: they
//! are made for guests. [`HostMemory::placeholder`] stands for memory that no process can
//! map. Nothing else creates one. Safe code that receives a [`HostMemory`] can pass it to
//! KVM or to an IOMMU. A [`FileSlice`] owns its descriptor for the same reason.
//!
//! # What this crate does not do
//!
//! The crate never reads through an address. Its only `unsafe` block makes the promise
//! for mappings of `vm-memory`, and is part of that feature. It knows neither KVM nor VFIO, and does not ask the host for its page size.
//!
//! # Features
//!
//! - `std` (default): adds [`FileSlice::new`], which takes the owner of a descriptor.
//!   Without this feature the crate needs only `alloc`.
//! - `serde`: ranges, page sets and page states as data. Data that would break a type's
//!   rules is refused: a range that wraps, half a page, ranges that overlap.
//! - `vm-memory`: adds `HostMemory::of_mmap`, for mappings of the crate `vm-memory`.
// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "std"), no_std)]
// Two constructors are `unsafe fn`s, which `forbid` does not allow. The only `unsafe`
// block is part of the feature `vm-memory`.
#![deny(unsafe_code)]

extern crate alloc;

mod addr_range;
mod bit_runs;
mod file_slice;
mod host_memory;
mod page_chunk;
mod page_range;
mod page_set;
mod page_size;
mod page_state;
mod range_set;
#[cfg(feature = "serde")]
mod state;
mod walk;

pub use addr_range::AddrRange;
pub use file_slice::FileSlice;
pub use host_memory::{HostMemory, Owner};
pub use page_range::{PAGE_SIZE, PageRange, PageRangeError};
pub use page_set::PageSet;
pub use page_set::check::InvalidSet;
pub use page_size::{PageSize, PageSizeError};
pub use page_state::{GuestMemfdSides, PageState};
pub use range_set::RangeSet;
pub use walk::{Piece, coalesce, gaps, overlap, subtract, walk};

/// The example in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
