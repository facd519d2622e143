// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots an ordinary Linux: `vmm boot`.
//!
//! ```text
//! BootConfig ─► ram, loader, acpi, cpu ─► a VM at the kernel's 64-bit entry point
//!
//! a vCPU's exit ─► view of the memory or port space ─► TrapDevice
//!                                                       ├─ serial, power
//!                                                       └─ pci: config space
//!                                                            └─► BARs: a transaction
//! ```

pub mod bus;
#[cfg(target_arch = "x86_64")]
pub mod confidential;
pub mod config;
pub mod layout;
pub mod outcome;
pub mod pci;
