// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Renders a guest's memory map as text, JSON or an SVG picture.
//!
//! A [`Map`] is a snapshot of a model of the crate `memory-model`: the region
//! tree, the flat view and, optionally, the memslots.
//!
//! # How data flows
//!
//! ```text
//! MemoryModel ─ Map::of ─┐         ┌─ text ──> a listing
//!                        ├─> Map ──┼─ serde ─> JSON
//! SlotRows ─ with_slots ─┘         └─ svg ───> a picture
//! ```
//!
//! [`Map::of`] copies the data that it needs. A map does not change when the
//! model changes. It has three kinds of rows: [`TreeRow`], [`FlatRow`] and
//! [`SlotRow`]. All output formats depend only on the rows:
//!
//! - [`text::tree`], [`text::flat`] and [`text::slots`] print tables that fit in 80
//!   columns, and a [`text::Layout`] in as many as a terminal has.
//! - [`Map`] and the rows implement [`serde::Serialize`]. Addresses are
//!   hexadecimal strings, because JSON numbers end at 2^53.
//! - [`svg::document`] draws the tree, the flat view and the memslots side by
//!   side on one vertical scale.
//!
//! # Example
//!
//! The machine has RAM, and the registers of a serial port on top of it. Here,
//! the handle of a region is its note. A VMM derives the note from its own
//! handles.
//!
//! ```
//! use std::sync::Arc;
//! use memory_map::{Map, SlotRow, svg, text};
//! use memory_model::{HostMemory, Memory, MemoryModel, Region};
//!
//! let pages = Arc::new(vec![0_u8; 0x10_0000]);
//! // SAFETY: no guest runs, and nothing else uses the vector.
//! let host = unsafe { HostMemory::new(pages.as_ptr() as u64, 0x10_0000, pages.clone()) };
//! let host = host.unwrap();
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64).with_handle(""))?;
//! let ram = t.add(Region::ram("ram", Memory::host_only(host)).with_handle(""))?;
//! let serial = t.add(Region::mmio("serial", 8).with_handle("a 16550"))?;
//! t.place(ram, memory, 0, 0)?;
//! t.place(serial, memory, 0xf_f000, 1)?;
//! t.commit()?;
//! let space = model.add_space("memory", memory)?;
//!
//! let map = Map::of(&model, space, "small", |region| region.handle().to_string());
//! assert_eq!(text::flat(&map), "\
//! Flat view
//!   start            last             access    kind        slot region
//!   0000000000000000-00000000000fefff direct rw ram              ram
//!   00000000000ff000-00000000000ff007 trap      mmio             serial: a 16550
//!   00000000000ff008-00000000000fffff direct rw ram              ram + 0xff008
//! ");
//!
//! // Optionally, add the memslots. From a `kvm_slots::SlotTable`:
//! // map.with_slots(table.slots().map(SlotRow::from))
//! let map = map.with_slots([SlotRow {
//!     id: 0,
//!     gpa: 0,
//!     size: 0xf_f000,
//!     flags: vec![],
//!     backing: "host memory at 0x7f0000000000".into(),
//!     behind: vec!["host memory".into()],
//!     host_mapped: true,
//! }]);
//! assert_eq!(map.flat[0].slot, Some(0));
//! let json = serde_json::to_value(&map)?;
//! assert_eq!(json["flat"][1]["start"], "0xff000");
//! let picture = svg::document(&map);
//! assert!(picture.starts_with("<svg") && picture.contains("a 16550"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this crate does not do
//!
//! The crate reads no guest memory and does not query the kernel: the caller
//! provides the memslots. It does not parse JSON. It contains no `unsafe`.
//!
//! # Features
//!
//! No feature is enabled by default.
//!
//! - `kvm-slots`: converts a slot of the crate `kvm-slots` with
//!   `SlotRow::from`.
// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod map;
mod rows;
#[cfg(feature = "kvm-slots")]
mod slots;
pub mod svg;
pub mod text;

pub use map::Map;
pub use rows::{FlatRow, SlotRow, TreeRow};

/// Runs the code of the README as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
