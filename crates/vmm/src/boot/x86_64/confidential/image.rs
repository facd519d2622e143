// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The boot image: what the staging area holds when the guest starts. Pure.
//!
//! ```text
//! page tables │ loader │ copy table │ bytes of the pieces, the trampoline last
//! ```

use memory_model::AddrRange;

use guest_ranges::PageRange;

use super::stub::{CopyEntry, Hypercall, checksum, loader, low, trampoline};
use crate::guest::windows::{WindowMap, page_tables};
use crate::guest::x86_64::Code;

/// The address of the trampoline in private RAM: one page, which an ordinary boot
/// does not use.
pub const TRAMPOLINE: u64 = 0x6000;

/// The addresses that the code can reach.
const REACH: u64 = 1 << 32;
/// The size of the page tables' pages, and the number of them that show all addresses.
const LARGE_PAGE: u64 = 2 << 20;
const LARGE_PAGES: u64 = REACH / LARGE_PAGE;
/// The page tables of [`REACH`]: one of level 4, one of level 3, four of level 2.
const TABLES: u64 = 6 * 4096;
/// The room for the loader.
const CODE: u64 = 128;
/// The offset of the copy table.
const HEAD: u32 = low(TABLES + CODE);

/// Bytes to be copied to private RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The guest-physical address.
    pub gpa: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What the staging area holds, and how the first vCPU starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootImage {
    /// The bytes from the start of the staging area on.
    pub bytes: Vec<u8>,
    /// Where the vCPU starts, in 64-bit mode with flat segments. The code needs no
    /// stack.
    pub rip: u64,
    /// The page tables with which it starts.
    pub cr3: u64,
}

/// Why there is no boot image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StagingError {
    /// The area is too small.
    #[error("the staging area has {has:#x} bytes, and the boot image needs {needed:#x}")]
    TooSmall {
        /// The size of the area.
        has: u64,
        /// The size of the image.
        needed: u64,
    },
    /// A piece or the area is not below 4 GiB.
    #[error("{gpa:#x} is not below 4 GiB, where the loader can reach it")]
    OutOfReach {
        /// The address where it starts.
        gpa: u64,
    },
    /// Two pieces overlap, or a piece and the staging area or the trampoline.
    #[error("{first} and {second} overlap: pieces, staging area and trampoline have to be apart")]
    Overlap {
        /// The lower one.
        first: AddrRange,
        /// The other one.
        second: AddrRange,
    },
}

impl BootImage {
    /// How large the staging area has to be for these pieces, in whole pages.
    pub fn size(pieces: &[Piece]) -> u64 {
        let code = trampoline(Hypercall::Vmcall, 0, 0, 0);
        let bytes = pieces.iter().map(|piece| piece.bytes.len() as u64);
        let size = payload(pieces.len() as u64 + 1) + bytes.sum::<u64>() + code.len() as u64;
        size.next_multiple_of(4096)
    }

    /// An image for the staging area `area` that copies `pieces`, makes the area
    /// private, and starts the kernel at `entry`.
    ///
    /// # Errors
    /// [`StagingError`].
    pub fn new(
        pieces: &[Piece],
        entry: u64,
        area: PageRange,
        hypercall: Hypercall,
    ) -> Result<Self, StagingError> {
        let (has, needed) = (area.size(), Self::size(pieces));
        if has < needed {
            return Err(StagingError::TooSmall { has, needed });
        }
        let base = reachable(area.start(), area.size())?;
        let pages = u32::try_from(area.pages());
        let pages = pages.map_err(|_| StagingError::OutOfReach { gpa: area.start() })?;
        let trampoline = Piece {
            gpa: TRAMPOLINE,
            bytes: trampoline(hypercall, base, pages, entry),
        };
        let pieces = pieces.iter().filter(|piece| !piece.bytes.is_empty());
        let pieces: Vec<&Piece> = pieces.chain([&trampoline]).collect();
        are_apart(&pieces, area)?;
        Ok(pack(&pieces, area.start(), base))
    }
}

/// The offset of the pieces' bytes: behind the table for `pieces` and its end.
fn payload(pieces: u64) -> u64 {
    TABLES + CODE + (pieces + 1) * CopyEntry::SIZE
}

/// The address of `size` bytes at `gpa`, if they are all in reach.
fn reachable(gpa: u64, size: u64) -> Result<u32, StagingError> {
    let end = gpa.checked_add(size).filter(|end| *end <= REACH);
    let address = end.and_then(|_| u32::try_from(gpa).ok());
    address.ok_or(StagingError::OutOfReach { gpa })
}

fn are_apart(pieces: &[&Piece], area: PageRange) -> Result<(), StagingError> {
    let mut ranges = vec![AddrRange::from(area)];
    for piece in pieces {
        let size = piece.bytes.len() as u64;
        reachable(piece.gpa, size)?;
        ranges.extend(AddrRange::new(piece.gpa, size.into()));
    }
    ranges.sort_unstable_by_key(|range| range.start());
    for pair in ranges.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if first.overlaps(second) {
            return Err(StagingError::Overlap { first, second });
        }
    }
    Ok(())
}

/// The image at `base`. All addresses are in reach.
fn pack(pieces: &[&Piece], base: u64, base_low: u32) -> BootImage {
    let identity = WindowMap::showing(&Code, (0..LARGE_PAGES).map(|number| number * LARGE_PAGE));
    let mut bytes = page_tables(&Code, &identity, base);
    let table = base_low + HEAD;
    bytes.extend(loader(table, low(TRAMPOLINE)));
    bytes.resize(HEAD as usize, 0);
    let mut from = base + payload(pieces.len() as u64);
    for piece in pieces {
        let length = piece.bytes.len() as u64;
        let entry = CopyEntry {
            from,
            to: piece.gpa,
            length,
            checksum: checksum(&piece.bytes),
        };
        bytes.extend(entry.bytes());
        from += length;
    }
    bytes.extend(CopyEntry::default().bytes());
    bytes.extend(pieces.iter().flat_map(|piece| &piece.bytes));
    BootImage {
        bytes,
        rip: base + TABLES,
        cr3: base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: u64 = 0x40_0000;
    const ENTRY: u64 = 0x10_0200;

    fn pieces() -> Vec<Piece> {
        let piece = |gpa, byte, size| Piece {
            gpa,
            bytes: vec![byte; size],
        };
        vec![
            piece(0x10_0000, 0xaa, 0x2001),
            piece(0x7000, 0xbb, 0x1000),
            piece(0x500, 0xcc, 0),
        ]
    }

    fn image(pieces: &[Piece], size: u64) -> Result<BootImage, StagingError> {
        let area = PageRange::new(AREA, size).unwrap();
        BootImage::new(pieces, ENTRY, area, Hypercall::Vmmcall)
    }

    fn word(bytes: &[u8], at: u64) -> u64 {
        let at = usize::try_from(at).unwrap();
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// What the loader copies, and where to.
    fn copies(image: &BootImage) -> Vec<(u64, &[u8])> {
        let mut at = TABLES + CODE;
        let mut found = Vec::new();
        loop {
            let [from, to, length, sum] =
                [0, 8, 16, 24].map(|field| word(&image.bytes, at + field));
            if length == 0 {
                return found;
            }
            let start = usize::try_from(from - AREA).unwrap();
            let bytes = &image.bytes[start..start + usize::try_from(length).unwrap()];
            assert_eq!(sum, checksum(bytes));
            found.push((to, bytes));
            at += CopyEntry::SIZE;
        }
    }

    #[test]
    fn the_table_lists_every_piece_and_the_trampoline() {
        let pieces = pieces();
        let size = BootImage::size(&pieces);
        let image = image(&pieces, size).unwrap();
        assert!(image.bytes.len() as u64 <= size);
        let pages = u32::try_from(size / 4096).unwrap();
        let code = trampoline(Hypercall::Vmmcall, 0x40_0000, pages, ENTRY);
        let due: Vec<(u64, &[u8])> = vec![
            (0x10_0000, &pieces[0].bytes),
            (0x7000, &pieces[1].bytes),
            (TRAMPOLINE, &code),
        ];
        assert_eq!(copies(&image), due);
    }

    #[test]
    fn the_page_tables_show_every_address_at_itself() {
        let image = image(&pieces(), 0x1_0000).unwrap();
        let entry = |table: u64, index: u64| word(&image.bytes, table - image.cr3 + 8 * index);
        for address in [0, AREA, 0x1234_5678, REACH - 1] {
            let page = 0x000f_ffff_ffff_f000;
            let level3 = entry(image.cr3, 0) & page;
            let level2 = entry(level3, address >> 30) & page;
            let leaf = entry(level2, address >> 21 & 511);
            assert_eq!(leaf & page, address & !(LARGE_PAGE - 1), "{address:#x}");
            assert_eq!(leaf & 0b1000_0011, 0b1000_0011, "large, writable, present");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let needed = BootImage::size(&pieces());
        let (has, error) = (needed - 4096, image(&pieces(), needed - 4096).unwrap_err());
        assert_eq!(error, StagingError::TooSmall { has, needed });
        for gpa in [REACH - 4095, u64::MAX] {
            let high = Piece {
                gpa,
                bytes: vec![0; 4096],
            };
            let error = image(&[high], 0x1_0000).unwrap_err();
            assert_eq!(error, StagingError::OutOfReach { gpa });
        }
        for gpa in [AREA + 0x1000, AREA - 1, TRAMPOLINE + 8, 0x10_1000] {
            let mut pieces = pieces();
            let bytes = vec![1; 16];
            pieces.push(Piece { gpa, bytes });
            let error = image(&pieces, 0x1_0000).unwrap_err();
            assert!(matches!(error, StagingError::Overlap { .. }), "{gpa:#x}");
        }
    }
}
