// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Locates and copies the bytes of a guest's page.

use std::os::unix::fs::FileExt;

use super::files::{FileId, Files};
use super::host;
use crate::vm::errno::Errno;

/// The location of bytes of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    /// At an address of this process, which need not be mapped.
    Host(u64),
    /// At an offset in a file.
    File(FileId, u64),
}

impl Bytes {
    pub(super) fn load(self, files: &Files, data: &mut [u8]) -> Result<(), Errno> {
        match self {
            // SAFETY: the caller that made the slot guaranteed that the guest may
            // read this memory while the slot exists.
            Self::Host(address) => unsafe { host::load(address, data) },
            Self::File(id, offset) => {
                let file = files.get(id).ok_or(Errno::EIO)?;
                Ok(file.file.read_exact_at(data, offset)?)
            }
        }
    }

    pub(super) fn store(self, files: &Files, data: &[u8]) -> Result<(), Errno> {
        match self {
            // SAFETY: the caller that made the slot guaranteed that the guest may
            // write this memory while the slot exists.
            Self::Host(address) => unsafe { host::store(address, data) },
            Self::File(id, offset) => {
                let file = files.get(id).ok_or(Errno::EIO)?;
                Ok(file.file.write_all_at(data, offset)?)
            }
        }
    }

    /// Whether the page can be read or written. Its contents do not change.
    pub(super) fn touch(self, files: &Files, store: bool) -> Result<(), Errno> {
        let mut byte = [0];
        self.load(files, &mut byte)?;
        match store {
            true => self.store(files, &byte),
            false => Ok(()),
        }
    }
}
