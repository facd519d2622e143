// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `KVM_SET_MEMORY_ATTRIBUTES2` on a guest_memfd, as the patches for conversion in
//! place describe it (v8 of June 2026). No released kernel has it. The differential tests
//! compare it with the lab's kernel that does (`xtask/lab/gmem-attributes`).

use std::os::fd::{AsRawFd, BorrowedFd};

use guest_ranges::AddrRange;

use super::file_pages::PagePin;
use super::files::{FileKind, SimFile};
use super::vm::{SimVm, State};
use crate::convert::Home;
use crate::vm::errno::Errno;
use crate::vm::file_attributes::FileAttributesError;

impl SimVm {
    /// Holds references to pages of a guest_memfd, as an IOMMU that maps them does, or a
    /// system call that reads or writes them. They cannot become private meanwhile.
    ///
    /// # Errors
    /// EBADF or EINVAL if the descriptor is not a guest_memfd of this VM. EINVAL for a
    /// range that is not in the file, and EFAULT if one of the pages is private.
    pub fn pin(&self, file: BorrowedFd<'_>, offset: u64, size: u64) -> Result<PagePin, Errno> {
        let state = &mut *self.state();
        let file = state.guest_memfd_mut(file)?;
        let pages = inside(file, offset, size)?;
        match file.pages.private.first_overlapping(pages) {
            Some(_) => Err(Errno::EFAULT),
            None => Ok(file.pages.pin(pages)),
        }
    }

    pub(super) fn change_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        let state = &mut *self.state();
        let supported = self.config().file_attributes().ok_or(Errno::ENOTTY)?;
        let page_size = self.config().page_size;
        // Another kind of file has another meaning for the number, or none.
        let file = state.guest_memfd_mut(file).map_err(|errno| match errno {
            Errno::EINVAL => Errno::ENOTTY,
            errno => errno,
        })?;
        if !page_size.is_aligned(offset | size) || attributes & !supported != 0 {
            return Err(Errno::EINVAL.into());
        }
        let pages = inside(file, offset, size)?;
        let private = attributes != 0;
        match file.pages.first_pinned(pages).filter(|_| private) {
            Some(offset) => Err(FileAttributesError {
                errno: Errno::EAGAIN,
                pinned_at: Some(page_size.floor(offset)),
            }),
            None => {
                file.pages.set(pages, private);
                Ok(())
            }
        }
    }
}

impl State {
    pub(super) fn guest_memfd_mut(&mut self, file: BorrowedFd<'_>) -> Result<&mut SimFile, Errno> {
        let fd = u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes());
        let id = self.files.by_descriptor(fd)?;
        let file = self.files.get_mut(id).ok_or(Errno::EINVAL)?;
        match file.kind {
            FileKind::GuestMemfd(_) => Ok(file),
            FileKind::DmaBuf { .. } => Err(Errno::EINVAL),
        }
    }

    /// Whether the page at `gpa` is private.
    pub(super) fn is_private(&self, gpa: u64) -> bool {
        if self.config.home != Home::FileAttributes {
            return self.private.contains(gpa);
        }
        let Some(slot) = self.memslots.find(gpa) else {
            return false;
        };
        let Some(file) = slot.file.filter(|_| self.config.has_private_memory()) else {
            return false;
        };
        match self.files.get(file.id).map(|file| (file.kind, &file.pages)) {
            Some((FileKind::GuestMemfd(_), pages)) => {
                pages.private.contains(file.offset + (gpa - slot.gpa))
            }
            // The slot itself is private.
            Some((FileKind::DmaBuf { .. }, _)) => slot.is_private_only(),
            None => false,
        }
    }
}

fn inside(file: &SimFile, offset: u64, size: u64) -> Result<AddrRange, Errno> {
    let pages = AddrRange::new(offset, size.into()).ok_or(Errno::EINVAL)?;
    match pages.last() < file.size {
        true => Ok(pages),
        false => Err(Errno::EINVAL),
    }
}
