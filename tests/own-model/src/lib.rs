// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small hypervisor that uses `kvm-slots` with a memory model of its own,
//! without the crate `memory-model`.
//!
//! The model is a flat list of regions with priorities ([`Model`]). Its visible
//! parts become `SlotRange`s. [`Vmm`] plans from the removed and added ranges,
//! applies the plan, tracks writes and converts pages. The tests run on the
//! simulated KVM and, if there is one, on the real one.
#![deny(missing_docs)]

pub mod guest;
mod memory;
mod model;
mod private_pages;
mod vmm;

pub use memory::Bytes;
pub use model::{Model, Region, What, page_size};
pub use vmm::{Change, Gate, Refused, Vmm};
