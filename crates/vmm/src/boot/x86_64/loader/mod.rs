// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads a kernel, its initrd and what they need to know into RAM, by the 64-bit
//! boot protocol of Linux (Documentation/arch/x86/boot.rst).

mod error;
mod image;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::path::Path;

use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::{BzImage, KernelLoader};
use memory_model::AddrRange;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, ReadVolatile};

pub use error::{FileError, LoadError};
use image::Image;

use super::layout::{
    ACPI_TABLES, BASE_RAM_END, COMMAND_LINE, COMMAND_LINE_SIZE, KERNEL, Layout, ZERO_PAGE,
};
use crate::boot::files::{self, Input};

/// The distance of the 64-bit entry point from the start of the kernel.
const ENTRY_64: u64 = 0x200;
/// `type_of_loader`: one without a number of its own.
const LOADER_UNKNOWN: u8 = 0xff;
const PAGE_SIZE: u64 = 4096;

/// Where everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The kernel's 64-bit entry point.
    pub entry: u64,
    /// The kernel, and the RAM that it needs before it knows of its RAM.
    pub kernel: AddrRange,
    /// The initrd.
    pub initrd: Option<AddrRange>,
}

/// Loads a bzImage, with an initrd if there is one, and writes the command line, the
/// ACPI tables (the RSDP first) and the zero page.
///
/// # Errors
/// [`LoadError`]. Part of the data may have been written.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &Path,
    initrd: Option<&Path>,
    command_line: &str,
    layout: &Layout,
    acpi: &[u8],
) -> Result<Loaded, LoadError> {
    let mut image = Image::open(kernel).map_err(|e| kernel_error(kernel, e))?;
    let initrd = initrd.map(|path| Input::open(path).map_err(|e| initrd_error(path, e.into())));
    let initrd = initrd.transpose()?;
    let command_line = checked_command_line(command_line, &image)?;
    check_memory(&image, initrd.as_ref(), layout)?;

    let at = Some(GuestAddress(KERNEL));
    let copied = BzImage::load(memory, at, &mut image.input.file, None);
    copied.map_err(|e| kernel_error(kernel, FileError::CopyKernel(e)))?;
    let initrd = initrd.map(|input| load_initrd(memory, input, &image, layout));
    let initrd = initrd.transpose()?;
    memory.write_slice(command_line.as_bytes_with_nul(), GuestAddress(COMMAND_LINE))?;
    write_acpi(memory, acpi)?;
    memory.write_obj(zero_page(&image, initrd, layout), GuestAddress(ZERO_PAGE))?;
    Ok(Loaded {
        entry: KERNEL + ENTRY_64,
        kernel: image.kernel,
        initrd,
    })
}

fn kernel_error(path: &Path, source: FileError) -> LoadError {
    let file = path.into();
    LoadError::Kernel { file, source }
}

fn initrd_error(path: &Path, source: FileError) -> LoadError {
    let file = path.into();
    LoadError::Initrd { file, source }
}

/// The command line with its terminator.
fn checked_command_line(text: &str, image: &Image) -> Result<CString, LoadError> {
    let most = u64::from(image.header.cmdline_size).min(COMMAND_LINE_SIZE - 1);
    if text.len() as u64 > most {
        return Err(LoadError::CommandLineTooLong {
            kernel: image.input.path.clone(),
            length: text.len(),
            most,
        });
    }
    Ok(files::command_line(text)?)
}

/// Checks that RAM takes the kernel and, above it, the initrd.
fn check_memory(image: &Image, initrd: Option<&Input>, layout: &Layout) -> Result<(), LoadError> {
    let initrd = pages(initrd.map_or(0, |input| input.size));
    let needed = pages(end(image.kernel)).saturating_add(initrd);
    let available = end(layout.low_ram);
    if needed <= available {
        return Ok(());
    }
    Err(LoadError::TooLittleMemory {
        kernel: image.input.path.clone(),
        needed,
        initrd,
        available,
    })
}

/// Copies the initrd to its place.
fn load_initrd(
    memory: &GuestMemoryMmap,
    mut input: Input,
    image: &Image,
    layout: &Layout,
) -> Result<AddrRange, LoadError> {
    let limit = image.initrd_end().min(end(layout.low_ram));
    let Some(place) = files::place_initrd(input.size, end(image.kernel), limit, PAGE_SIZE) else {
        let size = input.size;
        let most = limit.saturating_sub(pages(end(image.kernel)));
        let error = FileError::InitrdTooLarge { size, most };
        return Err(initrd_error(&input.path, error));
    };
    // RAM is mapped in this process, so the size of a part of it fits.
    let length = usize::try_from(input.size).unwrap_or(usize::MAX);
    let mut room = memory.get_slice(GuestAddress(place.start()), length)?;
    let copied = input.file.read_exact_volatile(&mut room);
    copied.map_err(|e| initrd_error(&input.path, e.into()))?;
    Ok(place)
}

fn write_acpi(memory: &GuestMemoryMmap, acpi: &[u8]) -> Result<(), LoadError> {
    let (size, room) = (acpi.len(), KERNEL - ACPI_TABLES);
    if size as u64 > room {
        return Err(LoadError::AcpiTooLarge { size, room });
    }
    Ok(memory.write_slice(acpi, GuestAddress(ACPI_TABLES))?)
}

/// The zero page: what a boot loader tells the kernel.
fn zero_page(image: &Image, initrd: Option<AddrRange>, layout: &Layout) -> boot_params {
    let mut params = boot_params {
        hdr: image.header,
        acpi_rsdp_addr: ACPI_TABLES,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    (params.hdr.code32_start, _) = halves(KERNEL);
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(COMMAND_LINE);
    let (start, size) = initrd.map_or((0, 0), |at| (at.start(), end(at) - at.start()));
    (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(start);
    (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(size);
    let slots = params.e820_table.iter_mut();
    for (slot, (start, end, kind)) in slots.zip(e820(layout)) {
        (slot.addr, slot.size, slot.r#type) = (start, end - start, kind);
        params.e820_entries += 1;
    }
    params
}

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// The memory map that a PC's firmware would report: start, end and type.
fn e820(layout: &Layout) -> impl Iterator<Item = (u64, u64, u32)> {
    let high = layout.high_ram;
    let below_4_gib = [
        (layout.low_ram.start(), BASE_RAM_END, E820_RAM),
        (ACPI_TABLES, KERNEL, E820_RESERVED),
        (KERNEL, end(layout.low_ram), E820_RAM),
    ];
    let above = high.map(|high| (high.start(), end(high), E820_RAM));
    below_4_gib.into_iter().chain(above)
}

/// The first address after a range, none of which ends at 2^64 here.
fn end(range: AddrRange) -> u64 {
    range.last().saturating_add(1)
}

/// Whole pages.
fn pages(size: u64) -> u64 {
    size.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX)
}

/// The lower and the upper 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let [low, high] = [value & u64::from(u32::MAX), value >> 32];
    #[expect(clippy::cast_possible_truncation, reason = "both are below 2^32")]
    (low as u32, high as u32)
}
