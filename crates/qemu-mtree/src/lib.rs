// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses QEMU's region dumps (`info mtree -D`) into a memory model.
//!
//! QEMU's monitor command `info mtree -D` prints the region trees of a machine,
//! and `info mtree -f` the flat views that QEMU renders from them. This crate
//! reads the region trees and rebuilds the machine's memory as a
//! [`MemoryModel`](memory_model::MemoryModel). You can look up addresses in its
//! flat views, print the views as QEMU would, or change the model and compare
//! the results.
//!
//! # Example
//!
//! ```
//! use memory_model::GuestAccess;
//! use qemu_mtree::RegionType;
//!
//! let dump = "\
//! address-space: memory
//!   0000000000000000-ffffffffffffffff (prio 0, i/o): system
//!     0000000000000000-0000000007ffffff (prio 0, ram): alias ram-below-4g @pc.ram 0000000000000000-0000000007ffffff
//!     00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
//!
//! memory-region: pc.ram
//!   0000000000000000-0000000007ffffff (prio 0, ram): pc.ram
//!
//! ";
//! let machine = qemu_mtree::read("pc.tree", dump)?;
//!
//! let view = machine.flat_view("memory").ok_or("no memory")?;
//! let vga = view.find(0xa_1000).ok_or("nothing there")?;
//! assert_eq!((vga.region().name(), vga.offset_of(0xa_1000)), ("vga-lowmem", Some(0x1000)));
//! assert_eq!(vga.access(), GuestAccess::Trap);
//! let ram = view.find(0xc_0000).ok_or("nothing there")?;
//! assert_eq!(ram.region().handle().kind, RegionType::Ram);
//!
//! // What QEMU prints for `info mtree -f`.
//! assert_eq!(
//!     machine.flat_text(),
//!     "\
//! FlatView #0
//!  AS \"memory\", root: system
//!  Root memory region: system
//!   0000000000000000-000000000009ffff (prio 0, ram): pc.ram
//!   00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
//!   00000000000c0000-0000000007ffffff (prio 0, ram): pc.ram @00000000000c0000
//!
//! "
//! );
//!
//! // A line that cannot be read is an error that names it.
//! let error = qemu_mtree::read("pc.tree", &dump.replace("prio 1, i/o", "prio 1, tape"));
//! assert_eq!(
//!     error.unwrap_err().to_string(),
//!     "pc.tree:4: unknown type 'tape'; expected container, i/o, ram, rom, romd or ramd",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`read_file`] reads a dump from a file.
//!
//! # How data flows
//!
//! | step | modules |
//! | --- | --- |
//! | text to the trees that it draws | `parse` |
//! | which drawings are one region, which region an alias shows | `identify` |
//! | what the text does not say, by rules | `rules` |
//! | trees to regions of the model and its address spaces | `build` |
//! | views to text | `flat_text` |
//!
//! # What a dump does not say
//!
//! Five facts that decide a flat view are not in the text: whether a region
//! answers accesses or only contains others, whether an alias is read-only,
//! which of two overlapping regions of equal priority was added last, whether a
//! region has 0 bytes or 1, and whether KVM runs the machine. An alias names
//! its target, and several regions can have that name. The crate guesses these
//! facts from the shapes and names of regions. [`Machine::overlaps`] lists the
//! overlapping regions whose order is a guess. The tests compare the result
//! with QEMU's own flat views of more than a hundred machines. They list the
//! few views that are not exact, each with the missing fact.
//!
//! # Untrusted input
//!
//! A dump can be any text, and the whole dump can be quoted or indented. A line
//! that cannot be read is a [`DumpError`] with its number. Work and memory are
//! bounded by limits on the number of regions, on their depth, and on the
//! regions visible through aliases.
//!
//! # What this crate does not do
//!
//! The crate maps no memory. The model's memory is a
//! [placeholder](memory_model::HostMemory::placeholder), which KVM rejects. The
//! crate does not read the output of `info mtree -f` or `-o`. The error for
//! such text names the right command.
#![forbid(unsafe_code)]

mod build;
mod error;
mod flat_text;
mod identify;
mod machine;
mod parse;
mod read;
mod region_type;
mod rules;

pub use error::{DumpError, FileError};
pub use machine::{AddressSpace, CutOff, Machine, Overlap, RegionInfo, View, ViewRoot};
pub use read::{read, read_file};
pub use region_type::RegionType;

/// Runs the code of the README as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
