// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The error of `KVM_SET_MEMORY_ATTRIBUTES2`.

use super::errno::Errno;

/// The reason why a guest_memfd's attributes did not change. None of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{errno}{}", place(.pinned_at))]
pub struct FileAttributesError {
    /// The kernel's error.
    ///
    /// EINVAL: not whole pages, beyond the file, or an unknown attribute. EAGAIN: someone
    /// holds a reference to a page, such as an IOMMU that maps it. ENOMEM: no room to
    /// record the state. ENOTTY: the kernel has no such ioctl.
    pub errno: Errno,
    /// With EAGAIN: the offset of the first such page in the file (`error_offset`).
    pub pinned_at: Option<u64>,
}

fn place(pinned_at: &Option<u64>) -> String {
    match pinned_at {
        Some(offset) => format!(", at offset {offset:#x} of the file"),
        None => String::new(),
    }
}

impl From<Errno> for FileAttributesError {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            pinned_at: None,
        }
    }
}
