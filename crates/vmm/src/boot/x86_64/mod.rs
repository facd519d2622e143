// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A PC without firmware: ACPI tables, I/O APIC and ports. The kernel is a bzImage.

pub mod acpi;
pub mod confidential;
pub mod cpu;
mod exits;
pub mod help;
pub(in crate::boot) mod interrupts;
pub mod layout;
pub mod loaded;
pub mod loader;
mod pc;
pub mod power;
pub mod vm;

pub use cpu::CpuError;
pub use exits::Exits;
pub use loaded::LoadedRamError;
pub use pc::Pc as Native;
