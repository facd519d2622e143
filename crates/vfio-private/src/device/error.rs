// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Errors of an open device.

use std::io;
use std::path::{Path, PathBuf};

use guest_ranges::AddrRange;
use thiserror::Error;

use super::address::PciAddress;
use crate::config::ConfigError;
use crate::piece::Access;
use crate::region_info::RegionInfoError;

/// An error of a device or its address space. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no such PCI device.
    #[error("{address}: no such PCI device")]
    NoDevice {
        /// The address asked for.
        address: PciAddress,
    },
    /// The device is in no IOMMU group: the machine has no IOMMU, or it is off.
    #[error("{address} is in no IOMMU group: is the IOMMU on?")]
    NoGroup {
        /// The device.
        address: PciAddress,
    },
    /// The device has no file of its own: no VFIO driver has it, or the kernel has no such files
    /// (they came with Linux 6.6, as a build option).
    #[error("{address} has no file in /dev/vfio/devices: not bound to vfio-pci, or an old kernel")]
    NoCdev {
        /// The device.
        address: PciAddress,
    },
    /// The device is on another bus: only PCI devices are supported.
    #[error("{address} is not a PCI device of VFIO")]
    NotPci {
        /// The address by which it was opened.
        address: PciAddress,
    },
    /// Another device of the group belongs to a driver of the host.
    #[error("{address}: its IOMMU group {group} has a device that is not VFIO's")]
    NotViable {
        /// The device.
        address: PciAddress,
        /// Its group.
        group: u32,
    },
    /// A file cannot be opened or read.
    #[error("{}: {}", path.display(), text(*errno))]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's error number.
        errno: i32,
    },
    /// The kernel's VFIO has another API version.
    #[error("the kernel's VFIO has API version {version}, not 0")]
    ApiVersion {
        /// Its version.
        version: i32,
    },
    /// The kernel's VFIO lacks the IOMMU model type1 v2.
    #[error("the kernel's VFIO has no type1 v2 IOMMU")]
    NoType1,
    /// An ioctl failed.
    #[error("{on}: {ioctl}: {}", text(*errno))]
    Ioctl {
        /// The device, or the file.
        on: String,
        /// The ioctl's name in the kernel's headers.
        ioctl: &'static str,
        /// The kernel's error number.
        errno: i32,
    },
    /// The [`FileRegistry`](super::FileRegistry) refused the file by which the device is opened.
    #[error("{address}: the hypervisor refuses its VFIO file: {}", text(*errno))]
    Register {
        /// The device.
        address: PciAddress,
        /// The error number; `EIO` for an error without one.
        errno: i32,
    },
    /// The kernel's description of a region is invalid.
    #[error("{address}: region {region}")]
    RegionInfo {
        /// The device.
        address: PciAddress,
        /// The number of the region.
        region: u32,
        /// What is wrong with it.
        source: RegionInfoError,
    },
    /// The device's configuration space is invalid.
    #[error("{address}: configuration space")]
    Config {
        /// The device.
        address: PciAddress,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// An access that leaves its region or mapping.
    #[error("{len:#x} bytes at offset {offset:#x} leave the {size:#x} bytes there are")]
    Outside {
        /// Where the access starts.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How many bytes there are.
        size: u64,
    },
    /// An access to a mapping that is not aligned to its width.
    #[error("an access of {len} bytes at offset {offset:#x} is not aligned")]
    Misaligned {
        /// Where the access starts.
        offset: u64,
        /// Its width in bytes.
        len: u64,
    },
    /// The kernel did not carry out an access, or not as a whole.
    #[error("{address}: {len:#x} bytes at offset {offset:#x} of region {region}: {}", text(*errno))]
    Access {
        /// The device.
        address: PciAddress,
        /// The number of the region.
        region: u32,
        /// Where the access starts.
        offset: u64,
        /// How long it is.
        len: usize,
        /// What the kernel said. `EIO` also for an access that was cut short: VFIO answers so
        /// where memory decoding is off.
        errno: i32,
    },
    /// The kernel did not map the bytes.
    #[error("{address}: mapping {} of region {region}: {}", range.dashed(), text(*errno))]
    Map {
        /// The device.
        address: PciAddress,
        /// The number of the region.
        region: u32,
        /// The bytes.
        range: AddrRange,
        /// The kernel's error number.
        errno: i32,
    },
    /// A piece with the wrong access: only shared pieces are mapped, only private ones exported.
    #[error("piece {} is {access}", range.dashed())]
    WrongAccess {
        /// The piece.
        range: AddrRange,
        /// Its access.
        access: Access,
    },
}

impl DeviceError {
    pub(super) fn open(path: &Path, error: &io::Error) -> Self {
        Self::Open {
            path: path.to_path_buf(),
            errno: errno(error),
        }
    }

    /// The error of the ioctl that this thread has just made.
    pub(super) fn ioctl(on: impl ToString, ioctl: &'static str) -> Self {
        Self::Ioctl {
            on: on.to_string(),
            ioctl,
            errno: errno(&io::Error::last_os_error()),
        }
    }

    /// The kernel's error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { errno, .. }
            | Self::Ioctl { errno, .. }
            | Self::Register { errno, .. }
            | Self::Access { errno, .. }
            | Self::Map { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Errors that did not come from the kernel were made here, for want of bytes.
pub(super) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
