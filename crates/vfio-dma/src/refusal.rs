// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why an address space refuses an operation.

use std::io;

use thiserror::Error;

/// Error numbers that are distinguished. They are the same on every architecture that has VFIO.
mod errno {
    pub(super) const EPERM: i32 = 1;
    pub(super) const ENOENT: i32 = 2;
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const EFAULT: i32 = 14;
    pub(super) const EEXIST: i32 = 17;
    pub(super) const ENODEV: i32 = 19;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENOSPC: i32 = 28;
}

/// What the kernel does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum DmaUnsupported {
    /// A container cannot map a file; an iommufd can.
    #[error("a container maps no files: open the device by its own file, with an iommufd")]
    FileInContainer,
    /// The kernel's iommufd maps no files. Linux 6.13 and newer do.
    #[error("the kernel's iommufd maps no files")]
    Files,
    /// The kernel's iommufd does not map this dma-buf. Linux 7.3 maps those that VFIO exported; older
    /// kernels map none.
    #[error("the kernel's iommufd does not map this dma-buf")]
    DmaBuf,
}

/// Why an operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum DmaRefusal {
    /// The operation is not supported.
    #[error(transparent)]
    Unsupported(#[from] DmaUnsupported),
    /// The kernel returned this error number.
    #[error("{}{}", io::Error::from_raw_os_error(*.0), meant(*.0))]
    Errno(i32),
}

/// What the kernel's error number means for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DmaObstacle {
    /// The IOVAs are mapped already (EEXIST).
    Mapped,
    /// The limit of mappings is reached (ENOSPC): the parameter `dma_entry_limit` of the module
    /// vfio_iommu_type1.
    TooManyMappings,
    /// The process may not lock as much memory (`RLIMIT_MEMLOCK`), or none is left (ENOMEM).
    LockedMemory,
    /// The host address has no memory, or none that can be pinned (EFAULT).
    NoMemory,
    /// The memory is read-only, and the mapping is not (EPERM).
    ReadOnlyMemory,
    /// The IOVAs cannot be mapped, or are not whole pages, or a mapping would have to be split
    /// (EINVAL). For a file also: it is not a memfd.
    Iova,
    /// The dma-buf is revoked, because the device's memory decoding is off or it sleeps (ENODEV).
    Revoked,
    /// The IOVAs are not mapped (ENOENT).
    NotMapped,
}

impl DmaRefusal {
    /// The error number, if the kernel refused.
    pub fn errno(self) -> Option<i32> {
        match self {
            Self::Errno(errno) => Some(errno),
            Self::Unsupported(_) => None,
        }
    }

    /// What the kernel's error number means for a mapping, if it is a known one.
    pub fn obstacle(self) -> Option<DmaObstacle> {
        obstacle(self.errno()?)
    }

    /// Whether the IOVAs are not mapped.
    pub fn is_not_mapped(self) -> bool {
        self.obstacle() == Some(DmaObstacle::NotMapped)
    }
}

fn obstacle(errno: i32) -> Option<DmaObstacle> {
    Some(match errno {
        errno::EEXIST => DmaObstacle::Mapped,
        errno::ENOSPC => DmaObstacle::TooManyMappings,
        errno::ENOMEM => DmaObstacle::LockedMemory,
        errno::EFAULT => DmaObstacle::NoMemory,
        errno::EPERM => DmaObstacle::ReadOnlyMemory,
        errno::EINVAL => DmaObstacle::Iova,
        errno::ENODEV => DmaObstacle::Revoked,
        errno::ENOENT => DmaObstacle::NotMapped,
        _ => return None,
    })
}

/// A hint where the number's usual text is misleading.
fn meant(errno: i32) -> &'static str {
    match obstacle(errno) {
        Some(DmaObstacle::TooManyMappings) => ": as many mappings as dma_entry_limit allows",
        Some(DmaObstacle::LockedMemory) => ": or more locked memory than RLIMIT_MEMLOCK allows",
        Some(DmaObstacle::NoMemory) => ": no memory there that can be pinned",
        Some(DmaObstacle::Revoked) => ": is the device's memory decoding on?",
        _ => "",
    }
}
