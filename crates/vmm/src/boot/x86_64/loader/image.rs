// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bzImage: the checks of its header, and the RAM that the kernel needs.
//!
//! The fields are those of the kernel's Documentation/arch/x86/boot.rst.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use memory_model::AddrRange;
use vm_memory::ByteValued;

use super::error::{FileError, NOT_A_BZIMAGE};
use crate::boot::files::{Format, Input, InputError};
use crate::boot::x86_64::layout::KERNEL;

/// The offset of the setup header in the file.
const HEADER: usize = 0x1f1;
/// The offset from which the byte at 0x201 counts to the end of the header.
const HEADER_BODY: usize = 0x202;
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// The first version of the boot protocol with `xloadflags`.
const PROTOCOL_64: u16 = 0x020c;

/// A bzImage whose header is valid.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) input: Input,
    pub(super) header: setup_header,
    /// The kernel and the RAM around it that it needs to decompress itself.
    pub(super) kernel: AddrRange,
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let input = Input::open(path)?;
        let header = read_header(&input.file)?;
        let kernel = check(&header, input.size)?;
        Ok(Self {
            input,
            header,
            kernel,
        })
    }

    /// The first address after those where an initrd may be.
    pub(super) fn initrd_end(&self) -> u64 {
        u64::from(self.header.initrd_addr_max) + 1
    }
}

/// Reads the header. Fields that the kernel's version does not have are zero.
fn read_header(file: &File) -> Result<setup_header, FileError> {
    let mut start = Vec::new();
    file.take(1024)
        .read_to_end(&mut start)
        .map_err(InputError::from)?;
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    if let Some(found) = start.get(HEADER..HEADER + bytes.len()) {
        bytes.copy_from_slice(found);
    }
    if header.header != MAGIC {
        return Err(FileError::Format(Format::of(&start, NOT_A_BZIMAGE)));
    }
    let [_, body] = header.jump.to_le_bytes();
    let end = HEADER_BODY - HEADER + usize::from(body);
    let unknown = header.as_mut_slice().get_mut(end..);
    unknown.unwrap_or_default().fill(0);
    Ok(header)
}

/// Checks the header of a file of `size` bytes. Returns the RAM that the kernel needs.
fn check(header: &setup_header, size: u64) -> Result<AddrRange, FileError> {
    let is_64_bit = header.version >= PROTOCOL_64 && header.xloadflags & XLF_KERNEL_64 != 0;
    if !is_64_bit || header.loadflags & LOADED_HIGH == 0 {
        return Err(FileError::No64BitEntry);
    }
    let alignment = header.kernel_alignment;
    if !alignment.is_power_of_two() {
        return Err(FileError::Alignment { alignment });
    }
    let sectors = match header.setup_sects {
        // The first kernels did not have the field.
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let expected = setup + u64::from(header.syssize) * 16;
    if size < expected {
        return Err(FileError::Truncated { size, expected });
    }
    // The kernel moves itself to the lowest aligned address from `pref_address` on, or
    // to `pref_address` if it is not relocatable. It needs `init_size` bytes there.
    let aligned = header
        .pref_address
        .max(KERNEL)
        .checked_next_multiple_of(alignment.into());
    let run_end = aligned
        .unwrap_or(u64::MAX)
        .saturating_add(header.init_size.into());
    let loaded_end = KERNEL.saturating_add(size - setup);
    let needed = run_end.max(loaded_end) - KERNEL;
    AddrRange::new(KERNEL, needed.into()).ok_or(FileError::Truncated { size, expected })
}
