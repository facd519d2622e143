// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random sets of ranges over a small address space and few pieces of memory,
//! so that the same memory reappears elsewhere and cycles occur.

use kvm_slots::{SlotAccess, SlotBacking, SlotRange};
use proptest::prelude::*;

use super::{HOST, PAGE, device_file, file, host, range};

/// The number of pages of the guest: enough for all memory and for gaps.
pub const SPACE: u64 = 40;

/// One piece of memory at one address, if it fits there.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    memory: usize,
    page: u64,
    log_dirty: bool,
    readonly: bool,
}

/// The descriptor of a guest_memfd of [`FILE_SIZE`] bytes, and those of
/// dma-bufs with one and two pages.
#[derive(Clone, Copy, Debug)]
pub struct Fds {
    /// The guest_memfd.
    pub guest_memfd: i32,
    /// The dma-bufs, and an offset in each.
    pub registers: [(i32, u64); 2],
}

/// The size of the guest_memfd.
pub const FILE_SIZE: u64 = 4 * PAGE;

/// Descriptors for tests that do not use them.
pub const NO_FDS: Fds = Fds {
    guest_memfd: 1000,
    registers: [(1001, 0), (1001, 2 * PAGE)],
};

/// The sizes in pages of the pieces of memory: plain ones, then slices of the
/// guest_memfd and of the dma-buf.
const SIZES: [u64; 10] = [1, 1, 1, 2, 2, 3, 1, 2, 1, 2];
const PLAIN: usize = 6;

fn pick() -> impl Strategy<Value = Pick> {
    let memory = 0..SIZES.len();
    let flag = || prop::bool::weighted(0.2);
    (memory, 0..14_u64, flag(), flag()).prop_map(|(memory, page, log_dirty, readonly)| Pick {
        memory,
        page,
        log_dirty,
        readonly,
    })
}

/// One set of ranges: any memory anywhere, or all memory in some order, so that
/// two sets differ by chains and cycles of moves.
pub fn picks() -> impl Strategy<Value = Vec<Pick>> {
    prop_oneof![prop::collection::vec(pick(), 0..16), arrangement()]
}

fn arrangement() -> impl Strategy<Value = Vec<Pick>> {
    let order = Just((0..SIZES.len()).collect::<Vec<_>>()).prop_shuffle();
    let gaps = prop::collection::vec(prop_oneof![3 => Just(0), 1 => 1..3_u64], SIZES.len());
    (order, gaps).prop_map(|(order, gaps)| {
        let mut page = 0;
        let place = order.into_iter().zip(gaps).map(|(memory, gap)| {
            let start = page + gap;
            page = start + SIZES[memory];
            Pick {
                memory,
                page: start,
                log_dirty: false,
                readonly: false,
            }
        });
        place.collect()
    })
}

/// The ranges by address, without picks that overlap an earlier one or use the
/// same piece of a file again.
pub fn ranges(picks: &[Pick], fds: Fds) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for pick in picks {
        let new = pick.range(fds);
        let clash = ranges.iter().any(|had| {
            let apart = had.gpa() + had.size() <= new.gpa() || new.gpa() + new.size() <= had.gpa();
            !apart || (had.backing() == new.backing() && new.backing().file().is_some())
        });
        if !clash {
            ranges.push(new);
        }
    }
    ranges.sort_by_key(|range| range.gpa());
    ranges
}

impl Pick {
    fn range(self, fds: Fds) -> SlotRange {
        let address = HOST + self.memory as u64 * 0x10_0000;
        let guest_memfd = |offset, host| SlotBacking::GuestMemfd {
            file: file(fds.guest_memfd, offset),
            host,
        };
        let backing = match self.memory {
            ..PLAIN => SlotBacking::Host(host(address)),
            6 => guest_memfd(0, None),
            7 => guest_memfd(PAGE, Some(host(address))),
            more => {
                let (fd, offset) = fds.registers[more - 8];
                SlotBacking::FdOffset(device_file(fd, offset).measured())
            }
        };
        let plain = self.memory < PLAIN;
        let access = match plain && self.readonly {
            true => SlotAccess::ReadOnly,
            false => SlotAccess::ReadWrite,
        };
        let range = range(self.page * PAGE, SIZES[self.memory] * PAGE, backing);
        let range = range.with_access(access);
        range.with_log_dirty(plain && self.log_dirty)
    }
}
