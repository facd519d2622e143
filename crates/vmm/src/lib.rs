// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A thin VMM that composes `memory-model`, `kvm-slots`, `vfio-private` and
//! `vfio-dma`. It runs a guest's script, or boots Linux with assigned devices.
//!
//! [`machine`] reads a machine file. [`board`] assembles the machine on a
//! [`backend`], the real KVM or the simulated one, with its [`devices`]. [`run`]
//! lets a [`guest`] execute the script and compares each step with what was
//! expected; [`report`] prints the result. [`Board::map`](board::Board::map) shows
//! a machine without running it, and [`bars`] how a device's BARs would be cut.
//! `boot`, on x86-64 and arm64, boots an ordinary Linux. [`cli`] is the command line.

pub mod backend;
pub mod bars;
pub mod board;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod boot;
pub mod cli;
pub mod devices;
pub mod guest;
pub mod machine;
pub mod report;
pub mod run;

pub use bar_report::with_causes;

pub use board::host_mapping::HostMapping;
