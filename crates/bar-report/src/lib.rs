// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads a description of a PCI device, and reports which bytes of its BARs are private, shared,
//! trapped or blocked.
//!
//! [`vfio_private::classify`] decides how a guest reaches each byte of a BAR. This crate prepares
//! its input from a device's files in sysfs, from raw configuration space, or from the output of
//! `lspci -vv`, even if it was pasted into a mail. It renders the result as JSON, or as text with
//! drawings.
//!
//! # Example
//!
//! A disk, from the text that its owner pasted into a mail:
//!
//! ```
//! use bar_report::{Reader, RegionList, ReportOptions};
//! use vfio_private::{Access, PageSize, Policy, classify};
//!
//! let paste = "\
//! > 01:00.0 Non-Volatile memory controller: Example Corp NVMe SSD
//! >     Control: I/O- Mem+ BusMaster+
//! >     Status: Cap+ 66MHz-
//! >     Region 0: Memory at f7c00000 (64-bit, non-prefetchable) [size=16K]
//! >     Capabilities: [b0] MSI-X: Enable+ Count=33 Masked-
//! >         Vector table: BAR=0 offset=00002000
//! >         PBA: BAR=0 offset=00002800
//! >     Kernel driver in use: nvme
//! ";
//!
//! // The classifier's input.
//! let device = Reader::new().lspci("mail.txt", paste, None)?;
//! let bars = device.bars(&RegionList::unknown())?;
//! for bar in bars.bars() {
//!     let pieces = classify(&bar.input(), PageSize::Size4K, Policy::new())?;
//!     assert_eq!(pieces[1].range().dashed().to_string(), "0x2000-0x2fff");
//!     assert_eq!(pieces[1].access(), Access::Trap);
//! }
//!
//! // The report.
//! let report = bars.report(&ReportOptions::new(PageSize::Size4K))?;
//! print!("{}", report.to_text());
//! assert!(report.to_text().contains("0x2000-0x2fff     4 KiB  trap     no   no   host page holds"));
//! # #[cfg(feature = "json")]
//! assert_eq!(report.to_json()["bars"][0]["pieces"][1]["access"], "trap");
//! let notes: Vec<String> = report.notes.iter().map(|note| note.to_string()).collect();
//! assert_eq!(
//!     notes,
//!     [
//!         "VFIO maps: not known (no list of regions): each memory BAR is taken as mappable",
//!         "TDISP: no report: nothing is private",
//!     ],
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A device of this machine, or a copy of its sysfs folder:
//!
//! ```
//! use bar_report::{Reader, RegionList, ReportOptions};
//! use vfio_private::PageSize;
//!
//! # let sysfs = tempfile::tempdir()?;
//! # let sysfs = sysfs.path();
//! # let folder = sysfs.join("bus/pci/devices/0000:01:00.0");
//! # std::fs::create_dir_all(&folder)?;
//! # let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".repeat(5);
//! # let first = "0x00000000f7c00000 0x00000000f7c03fff 0x0000000000140204\n";
//! # std::fs::write(folder.join("resource"), format!("{first}{none}"))?;
//! # std::fs::write(folder.join("config"), [&[0x36, 0x1b, 1, 0], &[0; 252][..]].concat())?;
//! // `sysfs` is the path `/sys`.
//! let device = Reader::new().sysfs(sysfs, "0000:01:00.0".parse()?)?;
//! let bars = device.bars(&RegionList::unknown())?;
//! let report = bars.report(&ReportOptions::new(PageSize::Size4K))?;
//! assert!(report.to_text().contains("BAR 0: memory, 16 KiB (0x4000), 64-bit, non-prefetchable"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How data flows
//!
//! ```text
//! Reader::lspci / config_space / sysfs ─> DeviceFacts
//!                                              │ DeviceFacts::bars, with a RegionList
//!                                              v
//!                                         DeviceBars ── KnownBar::input ─> vfio_private::classify
//!                                              │ DeviceBars::report, with ReportOptions
//!                                              v
//!                                         BarReport ── to_text, to_json
//! ```
//!
//! | input | type | says |
//! | --- | --- | --- |
//! | text, bytes or sysfs | [`DeviceFacts`], from a [`Reader`] | BARs, MSI-X |
//! | what VFIO lets userspace map | [`RegionList`] | sizes, mappable areas |
//! | a TDISP interface report | [`TdispReport`], in [`ReportOptions`] | private and shared ranges |
//! | page size, offset rule, policy | [`ReportOptions`] | how to cut |
//!
//! # Nothing is guessed
//!
//! If no input states a required fact, the error says which input would have it. Each line of
//! `lspci` output is parsed, or is known not to concern BARs and MSI-X, or is an error with its
//! number: the guest would get access to an MSI-X table that was overlooked. Two statements about
//! the same fact must agree; only a list of regions overrides other sources, with a note.
//! Capabilities that `lspci` could not read or that were cut off are an error, as is a sign that
//! lines are left out or that a second device begins. Only I/O BARs need no size: all of their
//! bytes trap.
//!
//! The [`Note`]s of a report list its assumptions: VFIO was not queried, another offset rule also
//! fits, or a part was left out. The text and the JSON have the same notes.
//!
//! A [`BarReportError`] names the file, the line and the cause; [`with_causes`] formats it in one
//! line. A [`Wording`] sets the names that errors and notes use for the inputs, so that a command
//! line can name its options.
//!
//! # Features
//!
//! `json`, enabled by default: [`BarReport::to_json`](BarReport), and [`RegionList`]s from JSON.
//! Without this feature the crate needs only `vfio-private` and `thiserror`.
//!
//! # What this does not do
//!
//! This crate opens no device, and makes no system calls except to read files. To query VFIO, open
//! the device with the feature `device` of `vfio-private`, and pass its regions as
//! [`RegionList::of_vfio`]; `vmm bars` does so. The crate ignores expansion ROMs, windows of
//! bridges, and the BARs of virtual functions in an SR-IOV capability.

// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod bdf;
mod device_bars;
mod error;
mod error_chain;
mod facts;
mod memory_type;
mod quote;
mod report;
mod sources;
mod wording;

pub use bdf::{Bdf, BdfError};
pub use device_bars::{DeviceBars, KnownBar};
pub use error::BarReportError;
pub use error_chain::with_causes;
pub use facts::DeviceFacts;
pub use memory_type::{AddressWidth, MemoryType};
pub use report::classify::ReportOptions;
pub use report::note::{Note, Topic};
pub use report::{BarReport, ClassifiedBar};
pub use sources::Reader;
pub use sources::region_list::{RegionFact, RegionList, RegionSource};
pub use sources::tdisp::TdispReport;
pub use wording::Wording;

/// Runs the code of the README as a test.
#[cfg(all(doctest, feature = "json"))]
#[doc = include_str!("../README.md")]
struct Readme;
