// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files behind slots: guest_memfds, and the dma-bufs of devices.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use super::host::{self, FileId};
use crate::{Errno, GuestMemfdFlags};

/// What a file is, beyond its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Made by `KVM_CREATE_GUEST_MEMFD` of this VM.
    GuestMemfd(GuestMemfdFlags),
    /// Exported by a device; while revoked, nobody reaches its bytes.
    DmaBuf { revoked: bool },
}

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) kind: FileKind,
    pub(super) size: u64,
    /// The simulation's own descriptor of the file.
    pub(super) file: File,
}

/// All files that the simulated kernel knows.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<FileId, SimFile>,
}

impl Files {
    /// Makes a file; the caller gets a descriptor of its own.
    pub(super) fn create(&mut self, kind: FileKind, size: u64) -> Result<OwnedFd, Errno> {
        let fd = host::anonymous_file(size)?;
        let file = File::from(fd.try_clone()?);
        let id = host::file_of(fd.as_raw_fd())?;
        self.files.insert(id, SimFile { kind, size, file });
        Ok(fd)
    }

    /// The file that a descriptor names: EBADF if it names none, EINVAL if it
    /// names one that this kernel's KVM cannot put into a slot.
    pub(super) fn by_descriptor(&self, fd: u32) -> Result<FileId, Errno> {
        let id = host::file_of(i32::from_ne_bytes(fd.to_ne_bytes()))?;
        match self.files.contains_key(&id) {
            true => Ok(id),
            false => Err(Errno::EINVAL),
        }
    }

    pub(super) fn get(&self, id: FileId) -> Option<&SimFile> {
        self.files.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: FileId) -> Option<&mut SimFile> {
        self.files.get_mut(&id)
    }
}
