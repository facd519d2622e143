// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads a kernel and its initrd into RAM, by Linux's boot protocol
//! (Documentation/arch/arm64/booting.rst).

use std::io::Read;
use std::path::{Path, PathBuf};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::pe::{PE, arm64_image_header};
use memory_model::AddrRange;
use vm_memory::{
    ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, ReadVolatile,
    VolatileMemoryError,
};

use super::cpu::PageSizes;
use super::layout::{KERNEL_BASE, RAM};
use crate::boot::files::{Format, Input, InputError, place_initrd};

/// "ARM\x64".
const MAGIC: u32 = 0x644d_5241;
/// The start of a kernel in an EFI application that decompresses it, after "MZ\0\0".
const ZBOOT: &[u8] = b"zimg";
/// What a file lacks that is no `Image` and has no other known format.
const NOT_AN_IMAGE: &str = "not an Image (no \"ARM\\x64\" at offset 56)";
/// Bit 0 of the flags: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1;
/// The initrd is in the same window of 32 GiB as the kernel.
const REACH: u64 = 32 << 30;
/// The initrd is aligned as every kernel's own pages are.
const PAGE: u64 = 64 << 10;

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The kernel's file is not one that can be booted.
    #[error("kernel {}", file.display())]
    Kernel {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The initrd cannot be loaded.
    #[error("initrd {}", file.display())]
    Initrd {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// There is too little RAM for the kernel and the initrd.
    #[error(
        "kernel {}: it needs {} MiB of RAM, {} MiB of them for the initrd, and there are {} MiB",
        kernel.display(), needed.div_ceil(1 << 20), initrd.div_ceil(1 << 20), available >> 20
    )]
    TooLittleMemory {
        /// The kernel's file.
        kernel: PathBuf,
        /// How many bytes are needed, from the start of RAM on.
        needed: u64,
        /// How many of them are for the initrd.
        initrd: u64,
        /// How many bytes there are in its reach.
        available: u64,
    },
    /// The memory is not the layout's.
    #[error("the boot data cannot be written to RAM")]
    Memory(#[from] GuestMemoryError),
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The contents cannot be copied to RAM.
    #[error("cannot copy it to RAM")]
    Copy(#[from] VolatileMemoryError),
    /// The kernel cannot be copied to RAM.
    #[error("cannot copy it to RAM: {0}")]
    CopyKernel(linux_loader::loader::Error),
    /// The file has another format.
    #[error("{0}; expected an Image, such as arch/arm64/boot/Image")]
    Format(Format),
    /// The kernel is for big-endian processors.
    #[error("the kernel is big-endian")]
    BigEndian,
    /// The header has no size of the kernel.
    #[error("the kernel's size is not known: it is older than Linux 3.17")]
    NoSize,
    /// The file ends before the kernel does, or after the RAM that it asks for.
    #[error("the file has {size} bytes, and the kernel's header says {image_size:#x}")]
    Size {
        /// The size of the file.
        size: u64,
        /// The size of the kernel with the RAM that it needs behind it.
        image_size: u64,
    },
    /// The processor cannot run it.
    #[error("the kernel has pages of {0} KiB, which this processor does not have")]
    PageSize(u32),
}

/// Where everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The kernel's entry point.
    pub entry: u64,
    /// The initrd.
    pub initrd: Option<AddrRange>,
}

/// An `Image` whose header is valid.
#[derive(Debug)]
struct Image {
    input: Input,
    /// The kernel and the RAM behind it that it needs, from its entry point on.
    kernel: AddrRange,
}

/// Loads a kernel, with an initrd if there is one. The processor has these page sizes.
///
/// # Errors
/// [`LoadError`]. Part of the data may have been written.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &Path,
    initrd: Option<&Path>,
    ram: AddrRange,
    pages: PageSizes,
) -> Result<Loaded, LoadError> {
    let of_kernel = |source| LoadError::Kernel {
        file: kernel.into(),
        source,
    };
    let mut image = Image::open(kernel, pages).map_err(of_kernel)?;
    let input = initrd.map(|path| {
        Input::open(path).map_err(|error| LoadError::Initrd {
            file: path.into(),
            source: error.into(),
        })
    });
    let input = input.transpose()?;
    let limit = (ram.last() + 1).min(RAM + REACH);
    let size = input.as_ref().map_or(0, |input| input.size);
    let end = image.kernel.last().saturating_add(1);
    let place = match size {
        0 => Some(None),
        size => place_initrd(size, end, limit, PAGE).map(Some),
    };
    let Some(place) = place.filter(|_| end <= limit) else {
        return Err(LoadError::TooLittleMemory {
            kernel: image.input.path,
            needed: (end - RAM).saturating_add(size),
            initrd: size,
            available: limit - RAM,
        });
    };
    let base = Some(GuestAddress(KERNEL_BASE));
    PE::load(memory, base, &mut image.input.file, None)
        .map_err(|error| of_kernel(FileError::CopyKernel(error)))?;
    if let (Some(mut input), Some(place)) = (input, place) {
        // RAM is mapped in this process, so the size of a part of it fits.
        let length = usize::try_from(input.size).unwrap_or(usize::MAX);
        let mut room = memory.get_slice(GuestAddress(place.start()), length)?;
        let copied = input.file.read_exact_volatile(&mut room);
        copied.map_err(|error| LoadError::Initrd {
            file: input.path,
            source: error.into(),
        })?;
    }
    Ok(Loaded {
        entry: image.kernel.start(),
        initrd: place,
    })
}

impl Image {
    fn open(path: &Path, pages: PageSizes) -> Result<Self, FileError> {
        let input = Input::open(path)?;
        let mut start = Vec::new();
        let read = (&input.file).take(64).read_to_end(&mut start);
        read.map_err(InputError::from)?;
        let kernel = check(&start, input.size, pages)?;
        Ok(Self { input, kernel })
    }
}

/// Checks the first bytes of a file of `size` bytes. Returns the RAM that the kernel
/// needs.
fn check(start: &[u8], size: u64, pages: PageSizes) -> Result<AddrRange, FileError> {
    let mut header = arm64_image_header::default();
    let bytes = header.as_mut_slice();
    if let Some(found) = start.get(..bytes.len()) {
        bytes.copy_from_slice(found);
    }
    if header.magic != MAGIC {
        let format = match start.get(4..8) {
            Some(ZBOOT) => Format::Compressed("zboot"),
            _ => Format::of(start, NOT_AN_IMAGE),
        };
        return Err(FileError::Format(format));
    }
    if header.flags & BIG_ENDIAN != 0 {
        return Err(FileError::BigEndian);
    }
    let kib = match header.flags >> 1 & 3 {
        1 => Some(4),
        2 => Some(16),
        3 => Some(64),
        _ => None,
    };
    if let Some(kib) = kib.filter(|kib| !pages.have(*kib)) {
        return Err(FileError::PageSize(kib));
    }
    let image_size = header.image_size;
    if image_size == 0 {
        return Err(FileError::NoSize);
    }
    let wrong = FileError::Size { size, image_size };
    let entry = KERNEL_BASE.checked_add(header.text_offset);
    let kernel = entry.and_then(|entry| AddrRange::new(entry, image_size.into()));
    kernel.filter(|_| size <= image_size).ok_or(wrong)
}

#[cfg(test)]
mod tests;
