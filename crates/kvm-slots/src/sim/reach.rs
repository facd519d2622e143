// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the bytes of a guest's page are, and how they are copied.

use std::os::unix::fs::FileExt;

use super::files::{FileId, Files};
use super::host;
use crate::errno::Errno;

/// Where bytes of one page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    /// At an address of this process, which need not be mapped.
    Host(u64),
    /// In a file, from that offset on.
    File(FileId, u64),
}

impl Bytes {
    pub(super) fn load(self, files: &Files, data: &mut [u8]) -> Result<(), Errno> {
        match self {
            // SAFETY: who made the slot promised that the guest may read this
            // memory for as long as the slot is there.
            Self::Host(address) => unsafe { host::load(address, data) },
            Self::File(id, offset) => {
                let file = files.get(id).ok_or(Errno::EIO)?;
                Ok(file.file.read_exact_at(data, offset)?)
            }
        }
    }

    pub(super) fn store(self, files: &Files, data: &[u8]) -> Result<(), Errno> {
        match self {
            // SAFETY: who made the slot promised that the guest may write this
            // memory for as long as the slot is there.
            Self::Host(address) => unsafe { host::store(address, data) },
            Self::File(id, offset) => {
                let file = files.get(id).ok_or(Errno::EIO)?;
                Ok(file.file.write_all_at(data, offset)?)
            }
        }
    }

    /// Whether the page can be read, or written too. It is not changed.
    pub(super) fn touch(self, files: &Files, store: bool) -> Result<(), Errno> {
        let mut byte = [0];
        self.load(files, &mut byte)?;
        match store {
            true => self.store(files, &byte),
            false => Ok(()),
        }
    }
}
