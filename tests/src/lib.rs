// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hardware tests: what they need, and what they do with it.
//!
//! A test states its needs. Where one is missing the test is skipped, and says
//! which; it is never silently green. `cargo test` runs them by way of
//! `hardware.rs`, and `cargo xtask hw-test` by way of the program `hw-tests`,
//! a single binary that can also be carried into another machine.

mod check;
pub mod conformance;
pub mod differential;
mod dirty;
pub mod end_to_end;
#[cfg(target_arch = "x86_64")]
pub mod guest_sees;
pub mod hw;
#[cfg(target_arch = "x86_64")]
mod long_mode;
pub mod needs;
pub mod peers;
mod pre_fault;
pub mod subject;
#[cfg(target_arch = "x86_64")]
mod vcpu_gate;
pub mod vfio;

/// The examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!(concat!(env!("OUT_DIR"), "/examples.md"))]
pub struct Examples;
