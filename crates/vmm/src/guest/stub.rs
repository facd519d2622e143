// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The script as machine code: a pure function from accesses to bytes.
//!
//! The guest runs in 64-bit mode. Its page tables show only the 2 MiB pages
//! that the script touches, and its own. They are packed in virtual memory, so
//! that few tables reach any guest-physical address. Per access
//! there are three instructions: the address, the load or store, and an `out`
//! that tells the VMM that the access is done.

use std::collections::BTreeSet;

use crate::machine::{Access, AccessKind};

/// The size of the guest's pages: `WINDOW` bytes of guest-physical memory each.
const WINDOW: u64 = 2 << 20;
/// The size of a page table.
const TABLE: u64 = 4096;
const ENTRIES: usize = 512;

/// Page table entry: present, writable, accessed.
const TABLE_ENTRY: u64 = 0b10_0011;
/// Page table entry of a 2 MiB page: also dirty.
const PAGE_ENTRY: u64 = 0b1110_0011;

/// The port that a finished access is announced on.
pub const DONE_PORT: u8 = 0x50;

/// The most bytes that one access compiles to.
const CODE_PER_ACCESS: u64 = 32;

/// A guest's code and page tables, to be put at a guest-physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The bytes.
    pub image: Vec<u8>,
    /// The guest-physical address of the uppermost page table.
    pub page_tables: u64,
    /// The virtual address at which each access's code starts, and at last
    /// that of the `hlt` behind them.
    pub entries: Vec<u64>,
}

/// How many bytes the stub for a script needs, in whole pages. It depends on
/// the accesses alone, so that a place for it can be found first.
pub fn size(accesses: &[Access]) -> u64 {
    // At most two windows per access, and those of the stub itself; a stub of
    // up to 2 MiB lies in one or two of them.
    let code = (accesses.len() as u64 + 1) * CODE_PER_ACCESS;
    let code = code.next_multiple_of(TABLE);
    let mut total = 0;
    let mut stub_windows = 2;
    // The stub's own windows need tables, which make the stub larger.
    for _ in 0..3 {
        let windows = windows(accesses.iter()).len() as u64 + stub_windows;
        total = (2 + windows.div_ceil(ENTRIES as u64)) * TABLE + code;
        stub_windows = total / WINDOW + 2;
    }
    total
}

/// Compiles a script into a stub at guest-physical address `base`, which is a
/// multiple of 4096 and has [`size`] bytes.
pub fn compile(accesses: &[Access], base: u64) -> Stub {
    let own = base & !(WINDOW - 1)..base + size(accesses);
    let mut shown = windows(accesses.iter());
    shown.extend(own.step_by(2 << 20));
    let map = WindowMap::showing(shown);

    let mut image = page_tables(&map, base);
    let mut entries = Vec::new();
    for access in accesses {
        entries.push(map.address(base + image.len() as u64));
        code(&mut image, access, map.address(access.gpa));
    }
    entries.push(map.address(base + image.len() as u64));
    image.push(0xf4); // hlt
    Stub {
        image,
        page_tables: base,
        entries,
    }
}

/// The 2 MiB pages that some accesses touch.
fn windows<'a>(accesses: impl Iterator<Item = &'a Access>) -> BTreeSet<u64> {
    let ends = accesses.flat_map(|a| [a.gpa, a.gpa.saturating_add(a.size as u64 - 1)]);
    ends.map(|gpa| gpa & !(WINDOW - 1)).collect()
}

/// Which virtual address shows a guest-physical one.
#[derive(Clone, Debug)]
pub(crate) struct WindowMap {
    /// The 2 MiB pages by virtual address. They are sorted, so that an access
    /// across two neighbours finds them side by side.
    windows: Vec<u64>,
}

impl WindowMap {
    /// Shows the 2 MiB pages that hold these addresses.
    pub(crate) fn showing(gpas: impl IntoIterator<Item = u64>) -> Self {
        let windows: BTreeSet<u64> = gpas.into_iter().map(|gpa| gpa & !(WINDOW - 1)).collect();
        Self {
            windows: windows.into_iter().collect(),
        }
    }

    /// The virtual address that shows `gpa`, which is in one of the pages.
    pub(super) fn address(&self, gpa: u64) -> u64 {
        let index = self.windows.partition_point(|&window| window <= gpa) as u64 - 1;
        index * WINDOW + gpa % WINDOW
    }
}

/// The level 4 table, the level 3 table, and as many of level 2 as there are.
pub(crate) fn page_tables(map: &WindowMap, base: u64) -> Vec<u8> {
    let directories = map.windows.chunks(ENTRIES);
    let addresses = (2..)
        .map(|number| base + number * TABLE)
        .take(directories.len());
    let mut image = table([(base + TABLE) | TABLE_ENTRY].into_iter());
    image.extend(table(addresses.map(|address| address | TABLE_ENTRY)));
    for windows in directories {
        image.extend(table(windows.iter().map(|window| window | PAGE_ENTRY)));
    }
    image
}

/// A page table that starts with these entries and is empty behind them.
fn table(entries: impl Iterator<Item = u64>) -> Vec<u8> {
    let all = entries.chain(std::iter::repeat(0)).take(ENTRIES);
    all.flat_map(u64::to_le_bytes).collect()
}

/// Appends the instructions of one access at virtual address `address`.
fn code(image: &mut Vec<u8>, access: &Access, address: u64) {
    image.extend([0x48, 0xbf]); // mov rdi, address
    image.extend(address.to_le_bytes());
    match access.kind {
        AccessKind::Read(_) => {
            image.extend([0x31, 0xc0]); // xor eax, eax
            image.extend(load(access.size)); // mov {al,ax,eax,rax}, [rdi]
        }
        AccessKind::Write(value) => {
            image.extend([0x48, 0xb8]); // mov rax, value
            image.extend(value.to_le_bytes());
            image.extend(store(access.size)); // mov [rdi], {al,ax,eax,rax}
        }
    }
    image.extend([0xe6, DONE_PORT]); // out DONE_PORT, al
}

/// `mov {al,ax,eax,rax}, [rdi]`.
pub(super) fn load(size: usize) -> &'static [u8] {
    match size {
        1 => &[0x8a, 0x07],
        2 => &[0x66, 0x8b, 0x07],
        4 => &[0x8b, 0x07],
        _ => &[0x48, 0x8b, 0x07],
    }
}

/// `mov [rdi], {al,ax,eax,rax}`.
pub(super) fn store(size: usize) -> &'static [u8] {
    match size {
        1 => &[0x88, 0x07],
        2 => &[0x66, 0x89, 0x07],
        4 => &[0x89, 0x07],
        _ => &[0x48, 0x89, 0x07],
    }
}
