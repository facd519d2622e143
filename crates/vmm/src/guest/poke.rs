// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest without a script, for tests that choose each access at run time. Its
//! code has one access of each kind, and registers select the next one.

use super::stub::{DONE_PORT, Stub, WindowMap, load, page_tables, store};

/// The sizes of accesses, in bytes.
const SIZES: [usize; 4] = [1, 2, 4, 8];

/// `mov eax, [rdi]`, `dec rcx`, and back while that is not zero.
const LOADS: &[u8] = &[0x8b, 0x07, 0x48, 0xff, 0xc9, 0x75, 0xf9];

/// Code that makes any access to some 2 MiB pages of guest-physical memory.
#[derive(Clone, Debug)]
pub struct Poke {
    /// The code and page tables, for the address that they were made for.
    pub stub: Stub,
    shown: WindowMap,
}

/// The registers with which a vCPU makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Where its code is.
    pub rip: u64,
    /// The virtual address of the access.
    pub rdi: u64,
    /// The value of a store.
    pub rax: u64,
    /// The number of loads of [`Poke::loads`].
    pub rcx: u64,
}

impl Poke {
    /// The most bytes that the stub has, for up to 500 pages.
    pub const SIZE: u64 = 4 * 4096;

    /// Code to be put at `base`, for accesses to the 2 MiB pages that hold
    /// these addresses. At most 500 of them, or there is no room for the page
    /// tables.
    pub fn new(base: u64, gpas: impl IntoIterator<Item = u64>) -> Self {
        let shown = WindowMap::showing(gpas.into_iter().chain([base]));
        let mut image = page_tables(&shown, base);
        let mut entries = Vec::new();
        let accesses = SIZES.map(load).into_iter().chain(SIZES.map(store));
        for code in accesses.chain([LOADS]) {
            entries.push(shown.address(base + image.len() as u64));
            image.extend(code);
            image.extend([0xe6, DONE_PORT]); // out DONE_PORT, al
            image.push(0xf4); // hlt
        }
        let stub = Stub {
            image,
            page_tables: base,
            entries,
        };
        Self { stub, shown }
    }

    /// A load of 1, 2, 4 or 8 bytes; all others are loads of 8.
    pub fn load(&self, gpa: u64, size: usize) -> Order {
        self.order(number(size), gpa, 0)
    }

    /// A store of 1, 2, 4 or 8 bytes; all others are stores of 8.
    pub fn store(&self, gpa: u64, size: usize, value: u64) -> Order {
        self.order(SIZES.len() + number(size), gpa, value)
    }

    /// `count` loads of 4 bytes, at least one, with nothing between them.
    pub fn loads(&self, gpa: u64, count: u32) -> Order {
        Order {
            rcx: count.max(1).into(),
            ..self.order(2 * SIZES.len(), gpa, 0)
        }
    }

    fn order(&self, entry: usize, gpa: u64, value: u64) -> Order {
        Order {
            rip: self.stub.entries[entry],
            rdi: self.shown.address(gpa),
            rax: value,
            rcx: 0,
        }
    }
}

fn number(size: usize) -> usize {
    let known = SIZES.iter().position(|known| *known == size);
    known.unwrap_or(SIZES.len() - 1)
}
