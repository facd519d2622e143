// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A loaded kernel, packed into a staging area.

use guest_ranges::PageRange;
use memory_model::AddrRange;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::image::{BootImage, Piece, StagingError};
use super::stub::Hypercall;
use crate::boot::x86_64::cpu::{Start, TABLES_SIZE};
use crate::boot::x86_64::layout::{self, Layout};
use crate::boot::x86_64::loaded::Kernel;
use crate::boot::x86_64::loader::Loaded;

const PAGE: u64 = 4096;

/// Why a kernel cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagedError {
    /// There is no room for the staging area beside the kernel and the initramfs.
    #[error(
        "{needed:#x} bytes of RAM are too few for a confidential guest: the kernel and its \
         initramfs are there twice at first"
    )]
    NoRoom {
        /// How many bytes more there would have to be, at the most.
        needed: u64,
    },
    /// What the loader wrote cannot be read.
    #[error("what the loader wrote cannot be read")]
    Scratch(#[from] GuestMemoryError),
    /// The boot image cannot be made.
    #[error(transparent)]
    Staging(#[from] StagingError),
}

/// The staging area with the boot image in it.
#[derive(Debug)]
pub struct Staged {
    /// The area.
    pub area: PageRange,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where the first vCPU starts.
    pub start: Start,
}

impl Staged {
    /// Packs what the loader has written to `scratch`. The area is below the
    /// initramfs, as high as possible.
    ///
    /// # Errors
    /// [`StagedError`].
    pub fn new(
        scratch: &GuestMemoryMmap,
        loaded: &Loaded,
        layout: &Layout,
        kernel: &Kernel<'_>,
        hypercall: Hypercall,
    ) -> Result<Self, StagedError> {
        let mut pieces = Vec::new();
        let ranges = [
            (layout::GDT, 64),
            (layout::ZERO_PAGE, PAGE),
            (layout::PAGE_TABLES, TABLES_SIZE),
            (layout::COMMAND_LINE, kernel.parameters.len() as u64 + 1),
            (layout::ACPI_TABLES, kernel.tables.len() as u64),
        ];
        let ranges = ranges.map(|(start, size)| AddrRange::new(start, size.into()));
        let files = [Some(loaded.kernel), loaded.initrd];
        for range in ranges.into_iter().chain(files).flatten() {
            pieces.push(piece(scratch, range)?);
        }
        let size = BootImage::size(&pieces);
        let top = match loaded.initrd {
            Some(initrd) => initrd.start(),
            None => layout.low_ram.last() + 1,
        };
        let start = (top / PAGE * PAGE).checked_sub(size);
        let start = start.filter(|start| *start > loaded.kernel.last());
        let area = start.and_then(|start| PageRange::new(start, size).ok());
        let area = area.ok_or(StagedError::NoRoom { needed: size })?;
        let image = BootImage::new(&pieces, loaded.entry, area, hypercall)?;
        Ok(Self {
            area,
            bytes: image.bytes,
            start: Start {
                rip: image.rip,
                cr3: image.cr3,
            },
        })
    }
}

/// The bytes of a range without the zeros at its end, which private RAM has anyway.
fn piece(scratch: &GuestMemoryMmap, range: AddrRange) -> Result<Piece, StagedError> {
    let size = usize::try_from(range.size()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    scratch.read_slice(&mut bytes, GuestAddress(range.start()))?;
    let used = bytes.iter().rposition(|byte| *byte != 0);
    bytes.truncate(used.map_or(0, |last| last + 1));
    Ok(Piece {
        gpa: range.start(),
        bytes,
    })
}
