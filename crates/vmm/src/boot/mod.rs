// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots an ordinary Linux: `vmm boot`.
//!
//! ```text
//! BootConfig ─► Architecture: RAM with a kernel and what it starts from, vCPUs
//!
//! a vCPU's exit ─► view of the memory or port space ─► TrapDevice
//!                                                       ├─ serial, power
//!                                                       └─ pci: config space
//!                                                            └─► BARs: a transaction
//! ```
//!
//! What differs between architectures is in the folder of each, behind
//! [`Architecture`](architecture::Architecture).

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod architecture;
pub mod bus;
pub mod config;
pub mod console;
pub mod conversions;
pub mod dma;
pub mod error;
pub mod files;
pub mod interrupts;
pub mod keys;
pub mod layout;
pub mod machine;
pub mod messages;
pub mod notes;
pub mod outcome;
pub mod pci;
pub mod ram;
pub mod report;
pub mod serial;
pub mod signals;
pub mod terminal;
pub mod vcpus;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64 as native;
#[cfg(target_arch = "x86_64")]
pub use x86_64 as native;
