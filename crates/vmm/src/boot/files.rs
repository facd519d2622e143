// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of a guest: kernel and initramfs.

use std::ffi::{CString, NulError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memory_model::AddrRange;

/// A file that is open, regular and not empty.
#[derive(Debug)]
pub struct Input {
    /// Its path.
    pub path: PathBuf,
    /// The file, at its start.
    pub file: File,
    /// The number of bytes.
    pub size: u64,
}

/// Why a file is no input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The file cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something without a size: a directory, a pipe or a device.
    #[error("not a regular file")]
    NotRegular,
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
}

impl Input {
    /// Opens a file.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn open(path: &Path) -> Result<Self, InputError> {
        // Opening a pipe would otherwise block until it has a writer.
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        let path = path.into();
        match (metadata.is_file(), metadata.len()) {
            (false, _) => Err(InputError::NotRegular),
            (true, 0) => Err(InputError::Empty),
            (true, size) => Ok(Self { path, file, size }),
        }
    }
}

/// The format of a file that is not a kernel as the architecture's boot protocol wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Format {
    /// An ELF file.
    #[error("this is an ELF file (a vmlinux?)")]
    Elf,
    /// A compressed file.
    #[error("this is a file compressed by {0}")]
    Compressed(&'static str),
    /// Anything else: what is missing.
    #[error("{0}")]
    Unknown(&'static str),
}

impl Format {
    /// The format of a file that starts with these bytes. `missing` is for unknown ones.
    pub fn of(start: &[u8], missing: &'static str) -> Self {
        const COMPRESSED: [(&[u8], &str); 6] = [
            (b"\x1f\x8b", "gzip"),
            (b"BZh", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"\x02\x21\x4c\x18", "lz4"),
        ];
        if start.starts_with(b"\x7fELF") {
            return Self::Elf;
        }
        let of = COMPRESSED
            .iter()
            .find(|(magic, _)| start.starts_with(magic));
        of.map_or(Self::Unknown(missing), |(_, name)| Self::Compressed(name))
    }
}

/// The highest place for `size` bytes between two addresses that is aligned to `page`.
pub fn place_initrd(size: u64, from: u64, limit: u64, page: u64) -> Option<AddrRange> {
    let start = limit.checked_sub(size)? & !(page - 1);
    AddrRange::new(start, size.into()).filter(|_| start >= from)
}

/// The kernel's command line with its terminator.
///
/// # Errors
/// It has a zero byte.
pub fn command_line(text: &str) -> Result<CString, CommandLineZero> {
    CString::new(text).map_err(|error: NulError| CommandLineZero {
        offset: error.nul_position(),
    })
}

/// The command line contains a byte that would end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command line has a zero byte at offset {offset}")]
pub struct CommandLineZero {
    /// Where the byte is.
    pub offset: usize,
}
