// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small hypervisor that has a memory model of its own, and `kvm-slots`
//! under it without the crate `memory-model`.
//!
//! The model is a flat list of regions with priorities ([`Model`]). What of
//! them shows becomes `SlotRange`s; [`Vmm`] plans from what has changed,
//! applies, tracks writes and converts pages. Tests run it on the simulated
//! KVM and, where there is one, on the real one.
#![deny(missing_docs)]

pub mod guest;
mod memory;
mod model;
mod private_pages;
mod vmm;

pub use memory::Bytes;
pub use model::{Model, PAGE, Region, What};
pub use vmm::{Change, Gate, Refused, Vmm};
