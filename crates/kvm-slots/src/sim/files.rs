// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of slots: guest_memfds and dma-bufs of devices.
//!
//! The kernel releases a guest_memfd with its last descriptor and mapping, and the
//! VMM holds both. The simulation detects this by a lock (`flock`) of the open file
//! description that it gives to the VMM: once a second one can take the lock, the
//! first is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::file_pages::FilePages;
use super::host::{self, HostFile};
use crate::vm::GuestMemfdFlags;
use crate::vm::errno::Errno;

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Made by `KVM_CREATE_GUEST_MEMFD` of this VM.
    GuestMemfd(GuestMemfdFlags),
    /// Exported by a device. While it is revoked, no one can access its bytes.
    DmaBuf { revoked: bool },
}

/// The number of a file, which is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u64);

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) kind: FileKind,
    pub(super) size: u64,
    /// The attributes of a guest_memfd's pages, where files have them.
    pub(super) pages: FilePages,
    /// The simulation's own open file description.
    pub(super) file: File,
    host: HostFile,
}

impl SimFile {
    /// Whether the last descriptor and the last mapping of a guest_memfd are
    /// dropped. Its slots then have no backing (`kvm_gmem_release`).
    fn is_released(&self) -> bool {
        matches!(self.kind, FileKind::GuestMemfd(_)) && host::is_let_go(self.file.as_fd())
    }
}

/// All files that the simulated kernel knows.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<FileId, SimFile>,
    by_host: BTreeMap<HostFile, FileId>,
    next: u64,
    /// The number of files that starts the next search for released ones.
    look_at: usize,
}

/// With fewer files, released ones are not searched.
const FEW: usize = 16;

impl Files {
    /// Creates a file. The caller gets the only descriptor that keeps it open.
    pub(super) fn create(&mut self, kind: FileKind, size: u64) -> Result<OwnedFd, Errno> {
        self.forget_released();
        let fd = host::anonymous_file(size)?;
        let file = host::open_again(fd.as_fd())?;
        host::hold(fd.as_fd())?;
        let host = host::file_of(&fd)?;
        let id = FileId(self.next);
        self.next += 1;
        self.by_host.insert(host, id);
        let file = SimFile {
            kind,
            size,
            pages: FilePages::new(kind, size),
            file,
            host,
        };
        self.files.insert(id, file);
        Ok(fd)
    }

    /// Makes a file known that another VM has made.
    pub(super) fn adopt(
        &mut self,
        fd: BorrowedFd<'_>,
        kind: FileKind,
        size: u64,
    ) -> Result<(), Errno> {
        let (file, host) = (host::open_again(fd)?, host::file_of(&fd)?);
        let id = FileId(self.next);
        self.next += 1;
        self.by_host.insert(host, id);
        let file = SimFile {
            kind,
            size,
            pages: FilePages::new(kind, size),
            file,
            host,
        };
        self.files.insert(id, file);
        Ok(())
    }

    /// Drops the bytes of released files. Each check needs a system call, so the search
    /// runs only when the number of files has doubled: its cost is proportional to
    /// the number of created files.
    fn forget_released(&mut self) {
        if self.files.len() < self.look_at {
            return;
        }
        let released = self.files.iter().filter(|(_, file)| file.is_released());
        let released: Vec<FileId> = released.map(|(id, _)| *id).collect();
        for id in released {
            if let Some(file) = self.files.remove(&id) {
                self.by_host.remove(&file.host);
            }
        }
        self.look_at = (2 * self.files.len()).max(FEW);
    }

    /// The file of a descriptor. EBADF if the descriptor is not open, EINVAL if this
    /// kernel's KVM cannot use the file in a slot.
    pub(super) fn by_descriptor(&self, fd: u32) -> Result<FileId, Errno> {
        let fd = i32::from_ne_bytes(fd.to_ne_bytes());
        let host = host::file_of(&fd)?;
        self.by_host.get(&host).copied().ok_or(Errno::EINVAL)
    }

    /// Whether a descriptor is open for reading and writing.
    pub(super) fn is_read_write(fd: u32) -> bool {
        host::is_read_write(i32::from_ne_bytes(fd.to_ne_bytes()))
    }

    /// The file, unless it was released.
    pub(super) fn get(&self, id: FileId) -> Option<&SimFile> {
        self.files.get(&id).filter(|file| !file.is_released())
    }

    /// Whether it is the file of a device that does not answer.
    pub(super) fn is_revoked(&self, id: FileId) -> bool {
        let file = self.files.get(&id);
        file.is_some_and(|file| file.kind == FileKind::DmaBuf { revoked: true })
    }

    pub(super) fn get_mut(&mut self, id: FileId) -> Option<&mut SimFile> {
        self.files.get_mut(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: FileKind = FileKind::GuestMemfd(GuestMemfdFlags::empty());

    #[test]
    fn released_files_do_not_pile_up() {
        let mut files = Files::default();
        for _ in 0..10 * FEW {
            drop(files.create(KIND, 4096).unwrap());
            assert!(files.files.len() <= FEW);
        }
    }

    #[test]
    fn the_more_files_are_open_the_rarer_released_ones_are_looked_for() {
        let mut files = Files::default();
        let mut open = Vec::new();
        let mut looks = 0;
        for _ in 0..8 * FEW {
            let before = files.look_at;
            open.push(files.create(KIND, 4096).unwrap());
            looks += usize::from(files.look_at != before);
        }
        // With 0, 1, 2, 4 and 8 times as many; the last is never reached.
        assert_eq!(looks, 4);
        open.clear();
        files.look_at = 0;
        drop(files.create(KIND, 4096).unwrap());
        assert_eq!(files.files.len(), 1);
    }
}
