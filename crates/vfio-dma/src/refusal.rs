// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why an address space does not do what it is asked for.

use std::io;

use thiserror::Error;

/// Error numbers that are told apart: the same on every architecture that has VFIO.
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

/// What there is none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum DmaUnsupported {
    /// A container has no way to map a file; an iommufd does.
    #[error("a container maps no files: open the device by its own file, with an iommufd")]
    FileInContainer,
    /// The kernel's iommufd maps no files: they came with Linux 6.13.
    #[error("the kernel's iommufd maps no files")]
    Files,
    /// The kernel's iommufd does not map this dma-buf: it takes those that VFIO exported, as Linux
    /// 7.3 was seen to; older kernels take none.
    #[error("the kernel's iommufd does not map this dma-buf")]
    DmaBuf,
}

/// What an address space said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum DmaRefusal {
    /// There is no such thing.
    #[error(transparent)]
    Unsupported(#[from] DmaUnsupported),
    /// The kernel refused.
    #[error("{}{}", io::Error::from_raw_os_error(*.0), meant(*.0))]
    Errno(i32),
}

/// What stands in the way, as far as the kernel's number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DmaObstacle {
    /// There is a mapping already (EEXIST).
    Mapped,
    /// There are as many mappings as there can be (ENOSPC): the parameter `dma_entry_limit` of the
    /// module vfio_iommu_type1.
    TooManyMappings,
    /// More memory would be locked than may be (`RLIMIT_MEMLOCK`), or there is none left (ENOMEM).
    LockedMemory,
    /// There is no memory at the host address, or none that can be pinned (EFAULT).
    NoMemory,
    /// The memory is read-only, and devices were to write (EPERM).
    ReadOnlyMemory,
    /// The IOVAs are not to be had, or not whole pages, or a mapping would have to be split (EINVAL).
    /// Of a file also: it is no memfd.
    Iova,
    /// The dma-buf is revoked: the device's memory decoding is off, or it sleeps (ENODEV).
    Revoked,
    /// Nothing is mapped there (ENOENT).
    NotMapped,
}

impl DmaRefusal {
    /// The kernel's error number, if it was the kernel.
    pub fn errno(self) -> Option<i32> {
        match self {
            Self::Errno(errno) => Some(errno),
            Self::Unsupported(_) => None,
        }
    }

    /// What stands in the way, as far as the kernel's number tells.
    pub fn obstacle(self) -> Option<DmaObstacle> {
        obstacle(self.errno()?)
    }

    /// Whether nothing was mapped there.
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

/// What the number means here, where its own words are misleading.
fn meant(errno: i32) -> &'static str {
    match obstacle(errno) {
        Some(DmaObstacle::TooManyMappings) => ": as many mappings as dma_entry_limit allows",
        Some(DmaObstacle::LockedMemory) => ": or more locked memory than RLIMIT_MEMLOCK allows",
        Some(DmaObstacle::NoMemory) => ": no memory there that can be pinned",
        Some(DmaObstacle::Revoked) => ": is the device's memory decoding on?",
        _ => "",
    }
}
