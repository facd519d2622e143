// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest-physical ranges, sets of pages and pieces of host memory.
//!
//! The crates that describe, map and convert a guest's memory share these types,
//! so that a range or a mapping passes from one to the next unchanged.
//!
//! | type | what it is |
//! | --- | --- |
//! | [`AddrRange`] | addresses: never empty, never wraps, reaches 2^64 |
//! | [`PageRange`] | whole pages of 4 KiB, as KVM's ioctls take them |
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
//! # Safety of host memory
//!
//! A VMM gives host memory to a guest, which reads and writes it behind the
//! compiler's back. Only the code that maps the memory can know whether that is
//! sound. [`HostMemory::new`] is therefore `unsafe`: its caller promises that the
//! guest may access these bytes for as long as the owner lives. A slice of a
//! [`HostMemory`] inherits the promise, and so do slices of one owner that are joined.
//! Nothing else creates one. Safe code that receives a [`HostMemory`] can pass it to
//! KVM or to an IOMMU. A [`FileSlice`] owns its descriptor for the same reason.
//!
//! # What this crate does not do
//!
//! The crate never reads through an address and contains no `unsafe` block. It knows
//! neither KVM nor VFIO, and no page size but 4 KiB.
//!
//! # Features
//!
//! - `std` (default): adds [`FileSlice::new`], which takes the owner of a descriptor.
//!   Without this feature the crate needs only `alloc`.
#![cfg_attr(not(feature = "std"), no_std)]
// Two constructors are `unsafe fn`s, which `forbid` does not allow. There is no
// `unsafe` block.
#![deny(unsafe_code)]

extern crate alloc;

mod addr_range;
mod file_slice;
mod host_memory;
mod page_chunk;
mod page_range;
mod page_set;
mod page_state;
mod range_set;
mod walk;

pub use addr_range::AddrRange;
pub use file_slice::FileSlice;
pub use host_memory::{HostMemory, Owner};
pub use page_range::{PAGE_SIZE, PageRange, PageRangeError};
pub use page_set::PageSet;
pub use page_set::check::InvalidSet;
pub use page_state::{GuestMemfdSides, PageState};
pub use range_set::RangeSet;
pub use walk::{Piece, coalesce, gaps, overlap, subtract, walk};

/// The example in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
