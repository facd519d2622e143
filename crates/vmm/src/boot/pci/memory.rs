// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A PCI function that is nothing but memory: `--device memory:SIZE`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use memory_model::Region;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::param::page_size;
use vfio_private::emulate::{EmulateError, GuestConfig};
use vfio_private::{Bar, BarIndex, BarKind, InputError};

use crate::HostMapping;
use crate::boot::bus::{GuestSpaces, Handle};
use crate::boot::pci::bars::{BarError, BarRegions, GuestBars};
use crate::boot::pci::function::{EmulatedFunction, FunctionDevice};
use crate::boot::pci::header::{Header, header, read};
use crate::boot::pci::windows::PciWindows;

/// 1b36:00f0, a RAM controller. No device has this ID, and no driver of Linux wants it.
const DEVICE: u16 = 0x00f0;
const CLASS: u16 = 0x0500;

/// The first BAR's register: 64-bit and prefetchable.
const BAR: usize = 0x10;
const BAR_FLAGS: u8 = 0xc;

/// The command register, and its bit for memory decoding, the only one here.
const COMMAND: u64 = 4;
const MEMORY_SPACE: u8 = 1 << 1;

/// The device of a memory function: a header whose memory decoding can be switched.
#[derive(Debug)]
pub struct MemoryDevice {
    header: Header,
    command: AtomicU8,
}

/// Why there is no memory function.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryFunctionError {
    /// The size is below a page.
    #[error("{size:#x} bytes of device memory are too few: the least is {page:#x}")]
    TooSmall {
        /// The size.
        size: u64,
        /// The size of a page of the host: a memslot is whole pages.
        page: u64,
    },
    /// The size is not a power of two.
    #[error(transparent)]
    Size(#[from] InputError),
    /// The memory could not be allocated.
    #[error("{size:#x} bytes of device memory cannot be allocated")]
    Memory {
        /// The size.
        size: u64,
        /// The error.
        source: io::Error,
    },
    /// Configuration space could not be emulated.
    #[error(transparent)]
    Config(#[from] EmulateError),
    /// The BAR could not be added.
    #[error(transparent)]
    Bars(#[from] BarError),
}

/// A function whose BAR 0 is `size` bytes of memory, a power of two. The guest reaches
/// them through a memslot. Devices do not: to them it is another device's memory.
///
/// # Errors
/// [`MemoryFunctionError`].
pub fn memory_function(
    spaces: GuestSpaces,
    windows: PciWindows,
    size: u64,
) -> Result<EmulatedFunction<MemoryDevice>, MemoryFunctionError> {
    let page = page_size() as u64;
    if size < page {
        return Err(MemoryFunctionError::TooSmall { size, page });
    }
    let bar = Bar::new(BarIndex::new(0)?, BarKind::Memory, size)?;
    let mapping = memory(size).map_err(|source| MemoryFunctionError::Memory { size, source })?;
    let device = MemoryDevice::new();
    let guest = GuestConfig::new(&device.header, &[bar])?;
    let memory = Region::device_ram("memory.bar0.ram", mapping.host_memory());
    let regions = BarRegions {
        bar,
        container: Region::container("memory.bar0", size.into()).with_handle(Handle::default()),
        pieces: vec![(0, memory.with_handle(Handle::default()))],
    };
    let bars = GuestBars::new(spaces, windows, vec![regions])?;
    Ok(EmulatedFunction::new(device, guest, bars))
}

/// Shared memory of this size.
fn memory(size: u64) -> io::Result<Arc<HostMapping>> {
    let file = memfd_create("device memory", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, size)?;
    Ok(Arc::new(HostMapping::of_file(&file, 0, size)?))
}

impl MemoryDevice {
    fn new() -> Self {
        let mut header = header(DEVICE, CLASS);
        header[BAR] = BAR_FLAGS;
        Self {
            header,
            command: AtomicU8::new(0),
        }
    }
}

impl FunctionDevice for MemoryDevice {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read(&self.header, offset, data);
        for (place, byte) in (offset..).zip(data) {
            if place == COMMAND {
                *byte = self.command.load(Ordering::SeqCst);
            }
        }
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        for (place, byte) in (offset..).zip(data) {
            if place == COMMAND {
                self.command.store(byte & MEMORY_SPACE, Ordering::SeqCst);
            }
        }
    }
}
