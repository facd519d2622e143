// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest on x86-64. It runs in 64-bit mode, on page tables of four levels
//! whose lowest is omitted.

#[cfg(target_arch = "x86_64")]
mod vcpu;

#[cfg(target_arch = "x86_64")]
pub use vcpu::Processor;

/// What the neutral modules use of an architecture.
#[cfg(target_arch = "x86_64")]
pub(super) mod native {
    pub use super::Code;
    pub use super::vcpu::Processor;
    pub(in crate::guest) use super::vcpu::{ending, set_order, value};
}

use super::stub::GuestCode;
use super::windows::PageTableFormat;

/// The port that a finished access is announced on.
pub const DONE_PORT: u8 = 0x50;

/// Page table entry: present, writable, accessed.
const TABLE_ENTRY: u64 = 0b10_0011;
/// Page table entry of a 2 MiB page: also dirty.
const PAGE_ENTRY: u64 = 0b1110_0011;

/// The instructions and page tables of x86-64. The address is in RDI, the value in
/// RAX, and the number of repetitions in RCX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code;

impl PageTableFormat for Code {
    fn window(&self) -> u64 {
        2 << 20
    }

    fn table(&self) -> u64 {
        4096
    }

    fn upper_tables(&self) -> u64 {
        2
    }

    fn table_entry(&self, gpa: u64) -> u64 {
        gpa | TABLE_ENTRY
    }

    fn window_entry(&self, gpa: u64) -> u64 {
        gpa | PAGE_ENTRY
    }
}

impl GuestCode for Code {
    const MOST_PER_ACCESS: u64 = 32;

    /// None: without an interrupt table, an exception ends in a triple fault,
    /// which is an exit.
    fn exceptions(&self) -> Vec<u8> {
        Vec::new()
    }

    fn set_address(&self, address: u64) -> Vec<u8> {
        // mov rdi, address
        [&[0x48, 0xbf][..], &address.to_le_bytes()].concat()
    }

    fn set_value(&self, value: u64) -> Vec<u8> {
        match value {
            0 => vec![0x31, 0xc0], // xor eax, eax
            // mov rax, value
            _ => [&[0x48, 0xb8][..], &value.to_le_bytes()].concat(),
        }
    }

    /// `mov {al,ax,eax,rax}, [rdi]`.
    fn load(&self, size: usize) -> Vec<u8> {
        match size {
            1 => vec![0x8a, 0x07],
            2 => vec![0x66, 0x8b, 0x07],
            4 => vec![0x8b, 0x07],
            _ => vec![0x48, 0x8b, 0x07],
        }
    }

    /// `mov [rdi], {al,ax,eax,rax}`.
    fn store(&self, size: usize) -> Vec<u8> {
        match size {
            1 => vec![0x88, 0x07],
            2 => vec![0x66, 0x89, 0x07],
            4 => vec![0x89, 0x07],
            _ => vec![0x48, 0x89, 0x07],
        }
    }

    /// `mov eax, [rdi]`, `dec rcx`, and back while that is not zero.
    fn loads(&self) -> Vec<u8> {
        vec![0x8b, 0x07, 0x48, 0xff, 0xc9, 0x75, 0xf9]
    }

    /// `mov edx, [rdi]`, `add rdi, rax`, `dec rcx`, and back while that is not
    /// zero.
    fn strided_loads(&self) -> Vec<u8> {
        vec![0x8b, 0x17, 0x48, 0x01, 0xc7, 0x48, 0xff, 0xc9, 0x75, 0xf6]
    }

    /// `out DONE_PORT, al`.
    fn done(&self) -> Vec<u8> {
        vec![0xe6, DONE_PORT]
    }

    /// `hlt`.
    fn end(&self) -> Vec<u8> {
        vec![0xf4]
    }
}
