// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random operations. Most of them are valid, at few addresses so that they
//! interact; every kind of refused operation occurs too.

use kvm_slots::sim::{FileCall, PreFault, Sharing};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;

use super::op::{BACKING_FD, File, Host, Op, Region};
use super::side::{ARENA_PAGES, FILES};
use crate::subject::{HostChange, REACHABLE};

/// A deterministic stream of numbers (SplitMix64, Steele et al. 2014), for a kernel
/// with pages of some size.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    page: u64,
}

/// The unit of processors, whatever the kernel's page size is.
const SMALLEST_PAGE: u64 = 4096;

impl Random {
    /// A stream that depends only on the seed and the page size in bytes.
    pub fn new(seed: u64, page: u64) -> Self {
        Self { state: seed, page }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number that is no multiple of a page: near to one, or a smaller page than the
    /// kernel's.
    fn unaligned(&mut self) -> u64 {
        let small = match self.page {
            SMALLEST_PAGE => 8,
            _ => SMALLEST_PAGE,
        };
        self.of(&[1, 8, self.page - 1, self.page + 1, small, self.page - small])
    }

    /// An offset in a page, often near to the end of a page of some kernel.
    fn in_page(&mut self, offsets: &[u64]) -> u64 {
        let small = match self.one_in(2) {
            true => self.page - SMALLEST_PAGE,
            false => self.below(self.page / SMALLEST_PAGE) * SMALLEST_PAGE,
        };
        small + self.of(offsets)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }
}

/// One operation. `slots` is the number of slots that tests may use.
pub fn op(random: &mut Random, slots: u32) -> Op {
    let page_size = random.page;
    match random.below(130) {
        0..34 => Op::Set(region(random, slots)),
        100..106 => Op::Set(on_device(random, slots)),
        108..122 => file_attributes(random),
        122..129 => Op::Pin {
            at: random.index(FILES),
            offset: random.below(6) * page_size,
            size: (1 + random.below(3)) * page_size,
        },
        129 => Op::Unpin,
        106..108 => Op::Answering(!random.one_in(3)),
        34..37 => Op::Create {
            at: random.index(FILES),
            size: file_size(random),
            flags: random.of(&[0, 0, 1, 3, 3, 3, 2, 4, 1 << 63]),
        },
        37..38 => Op::Close(random.index(FILES)),
        38..43 => Op::Call(random.index(FILES), call(random)),
        43..47 => Op::Map {
            at: random.index(FILES),
            offset: random.below(24) * page_size + if random.one_in(20) { 8 } else { 0 },
            size: random.of(&[page_size, page_size, 4 * page_size, 100, 0]),
            sharing: random.of(&[Sharing::Shared, Sharing::Shared, Sharing::Private]),
            store: random.one_in(2).then(|| random.next()),
        },
        47..52 => Op::Host(
            random.index(ARENA_PAGES),
            random.of(&[
                HostChange::Unmap,
                HostChange::Renew,
                HostChange::Renew,
                HostChange::Discard,
                HostChange::Protect,
            ]),
        ),
        52..56 => Op::HostLoad(host_offset(random)),
        56..62 => Op::HostStore(host_offset(random), random.next()),
        62..67 => attributes(random),
        67..69 => Op::PreFault(PreFault {
            gpa: gpa(random),
            size: size(random).min(64 * page_size),
            flags: u64::from(random.one_in(20)),
        }),
        _ => Op::Access {
            gpa: page(random) + random.in_page(&[0, 8, 0x123, 0x7fc, 0xff0, 0xff8, 0xffc, 0xfff]),
            size: random.of(&[1, 2, 4, 8]),
            store: random.one_in(2).then(|| random.next()),
        },
    }
}

const PRIVATE: u64 = MEMORY_ATTRIBUTE_PRIVATE;

fn region(random: &mut Random, slots: u32) -> Region {
    let page_size = random.page;
    let slot = match random.below(20) {
        0 => random.of(&[slots + 1, slots + 2, 0xffff, 1 << 16 | 1, 2 << 16, 1 << 31]),
        _ => u32::try_from(random.below(14)).unwrap_or(0),
    };
    Region {
        v1: random.one_in(8),
        slot,
        flags: match random.below(20) {
            0 => 1 << random.below(32),
            1 => 4 | 1 << random.below(32),
            2..6 => 1,
            6..9 => 2,
            9 => 3,
            10..14 => 4,
            _ => 0,
        },
        gpa: gpa(random),
        size: size(random),
        host: host(random),
        file: match random.below(12) {
            0 => File::Closed,
            1 => File::Wrong(random.index(2)),
            _ => File::At(random.index(FILES)),
        },
        offset: match random.below(30) {
            0 => random.unaligned(),
            1 => random.of(&[1 << 63, (1 << 63) - page_size, (1 << 63) - 4 * page_size]),
            2 => random.of(&[0_u64.wrapping_sub(page_size), 1 << 40]),
            _ => random.below(20) * page_size,
        },
        padding: if random.one_in(4) { random.next() } else { 0 },
    }
}

/// A slot without a host address, or one that differs slightly from that.
fn on_device(random: &mut Random, slots: u32) -> Region {
    let other = region(random, slots);
    Region {
        v1: random.one_in(20),
        flags: BACKING_FD
            | match random.below(20) {
                0 => 1 << random.below(32),
                _ => 0,
            },
        host: match random.below(12) {
            0 => other.host,
            _ => Host::Raw(0),
        },
        size: match random.below(4) {
            0 => other.size,
            _ => (1 + random.below(4)) * random.page,
        },
        file: match random.below(10) {
            0 => other.file,
            _ => File::Device,
        },
        offset: match random.below(4) {
            0 => other.offset,
            _ => random.below(6) * random.page,
        },
        padding: if random.one_in(12) { random.next() } else { 0 },
        ..other
    }
}

fn host(random: &mut Random) -> Host {
    match random.below(24) {
        // The ends of the address spaces that processes have, and no number in use.
        0 => Host::Raw(match random.below(3) {
            0 => (1 << random.of(&[47, 52, 56, 63])) - random.page,
            1 => 1 << random.of(&[47, 48, 52, 55, 56, 63]),
            _ => random.of(&[0, 1, 4096]),
        }),
        1 => Host::Arena(random.unaligned()),
        // At least partly beyond the memory.
        2 => Host::Arena((ARENA_PAGES as u64 - 2 + random.below(8)) * random.page),
        // Few numbers, so that a slot is requested again at another address: a
        // move.
        _ => Host::Arena(random.below(6) * 8 * random.page),
    }
}

/// The address of a slot. The kernel stores attributes page by page. A large
/// valid range would take minutes and use up all memory.
fn attributes(random: &mut Random) -> Op {
    let (gpa, size) = (gpa(random), size(random));
    let attributes = random.of(&[0, 0, 0, PRIVATE, PRIVATE, PRIVATE, 1, 1 << 4]);
    let is_taken = gpa.checked_add(size).is_some() && matches!(attributes, 0 | PRIVATE);
    Op::Attributes {
        gpa,
        size: if is_taken { size.min(1 << 26) } else { size },
        attributes,
    }
}

fn file_attributes(random: &mut Random) -> Op {
    Op::FileAttributes {
        at: random.index(FILES),
        offset: match random.below(20) {
            0 => random.unaligned(),
            1 => 0_u64.wrapping_sub(random.page),
            2 => (1 << 40) - random.page,
            3 => random.below(20) * random.page,
            // Few pages, so that a page changes back and is held.
            _ => random.below(6) * random.page,
        },
        size: match random.below(20) {
            0 => random.unaligned(),
            1 => 0,
            2 => 1 << 40,
            3 => 0_u64.wrapping_sub(random.page),
            _ => (1 + random.below(4)) * random.page,
        },
        attributes: match random.below(16) {
            0 => 1,
            1 => PRIVATE | 1 << 4,
            2..9 => 0,
            _ => PRIVATE,
        },
    }
}

fn gpa(random: &mut Random) -> u64 {
    match random.below(30) {
        0 => page(random) + random.unaligned(),
        1 => 0_u64.wrapping_sub(random.below(4) * random.page),
        // Around the widths that processors and VMs have.
        2 => {
            let end = 1 << random.of(&[32, 36, 39, 40, 43, 46, 48, 51, 52, 53, 63]);
            end - random.below(6) * random.page
        }
        _ => page(random),
    }
}

/// A page that the guest can reach.
fn page(random: &mut Random) -> u64 {
    let page = random.below(14) * random.page;
    match random.below(6) {
        // On both sides of the border between two large pages.
        0..3 => 0x4020_0000 - 7 * random.page + page,
        3 => 0x1_0000_0000 - 7 * random.page + page,
        4 => page,
        _ => REACHABLE[5] + page,
    }
}

fn size(random: &mut Random) -> u64 {
    match random.below(40) {
        0..9 => 0,
        9 => random.unaligned(),
        // 2^31 pages are one too many. One less would be valid, but takes a
        // minute to create.
        10 => random.of(&[random.page << 31, 1 << 52, 0_u64.wrapping_sub(random.page)]),
        11 => (256 + random.below(512)) * random.page,
        _ => random.of(&[1, 2, 4, 4, 8, 8]) * random.page,
    }
}

fn file_size(random: &mut Random) -> u64 {
    match random.below(10) {
        0 => match random.one_in(2) {
            true => random.unaligned(),
            false => random.of(&[0, 1 << 63, 0_u64.wrapping_sub(random.page)]),
        },
        1 | 2 => 1 << 40,
        _ => (1 + random.below(20)) * random.page,
    }
}

fn host_offset(random: &mut Random) -> u64 {
    random.below(ARENA_PAGES as u64) * random.page
        + random.in_page(&[0, 8, 0x123, 0x7fc, 0xff0, 0xff8])
}

fn call(random: &mut Random) -> FileCall {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = KEEP | libc::FALLOC_FL_PUNCH_HOLE;
    let page_size = random.page.cast_signed();
    match random.below(12) {
        0 => FileCall::Read,
        1 => FileCall::Write,
        2 => FileCall::ReadAt,
        3 => FileCall::WriteAt,
        4 => FileCall::Truncate(random.of(&[0, page_size, 1 << 40])),
        _ => FileCall::Allocate {
            mode: random.of(&[
                PUNCH,
                PUNCH,
                PUNCH,
                KEEP,
                KEEP,
                0,
                2,
                0x10,
                0x11,
                8,
                1 << 12,
            ]),
            offset: random.of(&[0, 1, 2, 3, 5, 8, 13, 21]) * page_size
                + random.of(&[0, 0, 0, 0, 8, -1, 4096 % page_size]),
            len: random.of(&[1, 1, 2, 4, 9, 0]) * page_size
                + random.of(&[0, 0, 0, 0, 0, 1, 4096 % page_size]),
        },
    }
}
