// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A thin VMM that composes `memory-model`, `kvm-slots` and `vfio-private`.
//!
//! It reads a [`machine`], puts it together on a [`backend`] as a [`board`],
//! has a [`guest`] run its script, and compares what was seen with what was
//! expected ([`run`], [`report`]). [`Board::map`](board::Board::map) shows a machine
//! without running it, and [`bars`] how a device's BARs would be cut.

mod act;
pub mod assigned;
pub mod backend;
mod bar_parts;
pub mod bars;
pub mod board;
mod causes;
pub mod cli;
pub mod device;
mod dispatch;
pub mod exit;
mod fault;
pub mod guest;
pub mod handle;
mod host_mapping;
pub mod machine;
mod map;
mod parts;
pub mod report;
pub mod run;
pub mod script_time;

pub use act::ActError;
pub use causes::with_causes;
pub use host_mapping::HostMapping;
