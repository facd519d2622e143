// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest without a script, for tests that choose each access at run time. Its
//! code has one access of each kind, and registers select the next one.

use super::stub::{GuestCode, Stub, StubBuilder};
use super::windows::WindowMap;

/// The sizes of accesses, in bytes.
const SIZES: [usize; 4] = [1, 2, 4, 8];

/// Code that makes any access to some windows of guest-physical memory.
#[derive(Clone, Debug)]
pub struct Poke {
    /// The code and page tables, for the address that they were made for.
    pub stub: Stub,
    shown: WindowMap,
}

/// The state with which a vCPU makes an access. Each of these has a register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The program counter: the virtual address of the code.
    pub pc: u64,
    /// The virtual address of the access.
    pub address: u64,
    /// The value of a store.
    pub value: u64,
    /// The number of loads of [`Poke::loads`].
    pub count: u64,
}

impl Poke {
    /// The most bytes that the stub has, for up to 500 windows. It is a multiple of
    /// every page size.
    pub const SIZE: u64 = 64 << 10;

    /// Code to be put at `base`, for accesses to the windows that hold these
    /// addresses. At most 500 of them, or there is no room for the page tables.
    pub fn new(guest: &impl GuestCode, base: u64, gpas: impl IntoIterator<Item = u64>) -> Self {
        let shown = gpas.into_iter().chain([base]);
        let mut builder = StubBuilder::new(guest, shown, base);
        let loads = SIZES.map(|size| guest.load(size));
        let stores = SIZES.map(|size| guest.store(size));
        let rest = [guest.loads(), guest.strided_loads()];
        for code in loads.into_iter().chain(stores).chain(rest) {
            builder.entry(&[code, guest.done(), guest.end()].concat());
        }
        let StubBuilder { map: shown, stub } = builder;
        Self { stub, shown }
    }

    /// The virtual address that shows `gpa`, which is in one of the windows.
    pub fn address(&self, gpa: u64) -> u64 {
        self.shown.address(gpa)
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
            count: count.max(1).into(),
            ..self.order(2 * SIZES.len(), gpa, 0)
        }
    }

    /// `count` loads of 4 bytes, at least one, the next one always `stride` bytes
    /// further.
    pub fn strided_loads(&self, gpa: u64, stride: u64, count: u64) -> Order {
        Order {
            count: count.max(1),
            ..self.order(2 * SIZES.len() + 1, gpa, stride)
        }
    }

    fn order(&self, entry: usize, gpa: u64, value: u64) -> Order {
        Order {
            pc: self.stub.entries[entry],
            address: self.shown.address(gpa),
            value,
            count: 0,
        }
    }
}

fn number(size: usize) -> usize {
    let known = SIZES.iter().position(|known| *known == size);
    known.unwrap_or(SIZES.len() - 1)
}
