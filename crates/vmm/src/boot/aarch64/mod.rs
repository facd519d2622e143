// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine that is described by a device tree: GICv3 with an ITS, and PSCI. The kernel
//! is an `Image`.
//!
//! There is no I/O address space: [`port_window`] shows it in memory. PCI functions have
//! message interrupts, and no others.

pub mod cpu;
pub mod device_tree;
mod exits;
pub mod gic;
pub mod help;
pub(in crate::boot) mod interrupts;
pub mod layout;
pub mod loaded;
pub mod loader;
pub mod port_window;
mod virt;
pub mod vm;

pub use cpu::CpuError;
pub use exits::Exits;
pub use loaded::LoadedRamError;
pub use virt::Virt as Native;
