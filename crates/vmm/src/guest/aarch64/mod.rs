// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest on aarch64. It runs at EL1 with its MMU on.
//!
//! # Memory types
//!
//! All of its memory is Normal, write-back cacheable and inner shareable, also where
//! a device is. The second stage of translation, which KVM makes, combines its own
//! type with the guest's, and the stricter type applies (Arm ARM, D8.6): where KVM
//! maps the registers of a device, it says Device, and so they are. Normal memory
//! alone allows accesses across pages and at any alignment, which scripts make.
//!
//! # The end of an access
//!
//! Each access ends with `brk`. With `KVM_GUESTDBG_USE_SW_BP`, KVM hands a breakpoint
//! to the VMM (`KVM_EXIT_DEBUG`). A store to a certain address would need an address
//! that no machine uses, and a hypercall would need a filter (Linux 6.4) to leave
//! KVM. Exceptions of the guest end with another `brk`, so that they end the run.

pub mod asm;
pub mod translation;
#[cfg(target_arch = "aarch64")]
mod vcpu;

#[cfg(target_arch = "aarch64")]
pub use vcpu::Processor;

/// What the neutral modules use of an architecture.
#[cfg(target_arch = "aarch64")]
pub(super) mod native {
    pub use super::Code;
    pub use super::vcpu::Processor;
    pub(in crate::guest) use super::vcpu::{ending, set_order, value};
}

use self::asm::{Condition, X};
use self::translation::Granule;
use super::stub::GuestCode;
use super::windows::PageTableFormat;

/// The register of the value.
pub const VALUE: X = X(0);
/// The register of the address.
pub const ADDRESS: X = X(1);
/// The register of the number of repetitions.
pub const COUNT: X = X(2);

/// The number of the `brk` that ends an access.
pub const DONE: u16 = 0;
/// The number of the `brk` at an exception.
pub const EXCEPTION: u16 = 1;

/// The distance of exception vectors, and how many there are.
const VECTORS: (usize, usize) = (0x80, 16);

/// The instructions and page tables of aarch64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The granule of the page tables.
    pub granule: Granule,
}

impl Default for Code {
    /// For a guest on the simulated KVM, which never runs it.
    fn default() -> Self {
        Self {
            granule: Granule::Kib4,
        }
    }
}

impl PageTableFormat for Code {
    fn window(&self) -> u64 {
        self.granule.block()
    }

    fn table(&self) -> u64 {
        self.granule.bytes()
    }

    /// With two levels there are addresses for at least 39 bits.
    fn upper_tables(&self) -> u64 {
        1
    }

    fn table_entry(&self, gpa: u64) -> u64 {
        gpa | translation::TABLE_ENTRY
    }

    fn window_entry(&self, gpa: u64) -> u64 {
        gpa | translation::BLOCK_ENTRY
    }
}

impl GuestCode for Code {
    /// Two constants of four instructions, the access, and `brk`.
    const MOST_PER_ACCESS: u64 = 4 * 10;

    /// The vector table: `brk` in each vector.
    fn exceptions(&self) -> Vec<u8> {
        let (distance, count) = VECTORS;
        let mut vector = asm::bytes([asm::brk(EXCEPTION)]);
        vector.resize(distance, 0);
        vector.repeat(count)
    }

    fn set_address(&self, address: u64) -> Vec<u8> {
        asm::bytes(asm::load_immediate(ADDRESS, address))
    }

    fn set_value(&self, value: u64) -> Vec<u8> {
        asm::bytes(asm::load_immediate(VALUE, value))
    }

    fn load(&self, size: usize) -> Vec<u8> {
        asm::bytes([asm::ldr(size, VALUE, ADDRESS, 0)])
    }

    fn store(&self, size: usize) -> Vec<u8> {
        asm::bytes([asm::str(size, VALUE, ADDRESS, 0)])
    }

    fn loads(&self) -> Vec<u8> {
        asm::bytes([
            asm::ldr(4, VALUE, ADDRESS, 0),
            asm::subs_immediate(COUNT, COUNT, 1),
            asm::b_if(Condition::Ne, -2),
        ])
    }

    fn strided_loads(&self) -> Vec<u8> {
        asm::bytes([
            asm::ldr(4, X(3), ADDRESS, 0),
            asm::add(ADDRESS, ADDRESS, VALUE),
            asm::subs_immediate(COUNT, COUNT, 1),
            asm::b_if(Condition::Ne, -3),
        ])
    }

    fn done(&self) -> Vec<u8> {
        asm::bytes([asm::brk(DONE)])
    }

    fn end(&self) -> Vec<u8> {
        self.done()
    }
}
