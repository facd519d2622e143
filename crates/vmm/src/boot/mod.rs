// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots an ordinary Linux: `vmm boot`. On x86-64 only.
//!
//! ```text
//! BootConfig ─► ram, loader, acpi, cpu ─► a VM at the kernel's 64-bit entry point
//!
//! a vCPU's exit ─► view of the memory or port space ─► TrapDevice
//!                                                       ├─ serial, power
//!                                                       └─ pci: config space
//!                                                            └─► BARs: a transaction
//! ```

pub mod acpi;
pub mod bus;
#[cfg(target_arch = "x86_64")]
pub mod confidential;
pub mod config;
pub mod conversions;
pub mod cpu;
pub mod dma;
pub mod error;
pub mod interrupts;
pub mod keys;
pub mod layout;
pub mod loaded;
pub mod loader;
pub mod machine;
pub mod notes;
pub mod outcome;
pub mod pci;
pub mod power;
pub mod ram;
pub mod report;
pub mod serial;
pub mod signals;
pub mod terminal;
pub mod vcpus;
pub mod vm;
