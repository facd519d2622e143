// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a guest cannot be loaded.

use std::path::PathBuf;

use vm_memory::{GuestMemoryError, VolatileMemoryError};

use crate::boot::files::{CommandLineZero, Format, InputError};

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
        "kernel {}: it needs {} MiB of RAM below 4 GiB, {} MiB of them for the initrd, \
         and there are {} MiB",
        kernel.display(), mib(*needed), mib(*initrd), available >> 20
    )]
    TooLittleMemory {
        /// The kernel's file.
        kernel: PathBuf,
        /// How many bytes are needed, from address 0 on.
        needed: u64,
        /// How many of them are for the initrd.
        initrd: u64,
        /// How many bytes of RAM there are below 4 GiB.
        available: u64,
    },
    /// The command line does not fit.
    #[error(
        "the command line has {length} bytes, and kernel {} takes {most}",
        kernel.display()
    )]
    CommandLineTooLong {
        /// The kernel's file.
        kernel: PathBuf,
        /// The length of the command line.
        length: usize,
        /// The most bytes, without the terminator.
        most: u64,
    },
    /// The command line contains a byte that would end it.
    #[error(transparent)]
    CommandLineZero(#[from] CommandLineZero),
    /// The ACPI tables do not fit.
    #[error("the ACPI tables have {size} bytes, and there is room for {room}")]
    AcpiTooLarge {
        /// The size of the tables.
        size: usize,
        /// The size of the room.
        room: u64,
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
    #[error("{0}; expected a bzImage, such as arch/x86/boot/bzImage or /boot/vmlinuz-*")]
    Format(Format),
    /// The file is a bzImage without a 64-bit entry point (`XLF_KERNEL_64`).
    #[error("the kernel has no 64-bit entry point: it is for 32-bit or older than Linux 3.8")]
    No64BitEntry,
    /// The header contradicts itself.
    #[error("the kernel's header has an invalid kernel_alignment, {alignment:#x}")]
    Alignment {
        /// The value.
        alignment: u32,
    },
    /// The file ends before the kernel does.
    #[error("the file is truncated: it has {size} bytes, and the kernel has {expected}")]
    Truncated {
        /// The size of the file.
        size: u64,
        /// The size that the header implies.
        expected: u64,
    },
    /// The kernel cannot reach an initrd of this size, whatever RAM there is.
    #[error("it has {size} bytes, and the kernel takes at most {most}")]
    InitrdTooLarge {
        /// The size of the file.
        size: u64,
        /// The space between the kernel and `initrd_addr_max`.
        most: u64,
    },
}

/// What a file lacks that is no bzImage and has no other known format.
pub(super) const NOT_A_BZIMAGE: &str = "not a bzImage (no \"HdrS\" at offset 0x202)";

/// Whole MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
