// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A real device whose memory a guest reaches without a host address: ivshmem's
//! second BAR, which is plain memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vfio_private::AddrRange;
use vfio_private::device::{Device, Iommu, VfioInterface};

use super::PAGE;
use crate::vfio::Model;

/// The number of pages that tests may use.
pub const DEVICE_PAGES: u64 = 8;

/// An open device, and a dma-buf of its first pages.
#[derive(Debug)]
pub struct LentDevice {
    device: Device,
    file: OwnedFd,
}

impl LentDevice {
    /// Opens the device and clears its pages. The dma-buf consists of two
    /// ranges, so that a slot can straddle them.
    ///
    /// # Errors
    /// A message that says what is missing.
    pub fn open() -> Result<Self, String> {
        let iommu = Iommu::new(VfioInterface::LegacyGroup).map_err(|e| e.to_string())?;
        let device = Device::open(&iommu, Model::Ivshmem.bound()?).map_err(|e| e.to_string())?;
        device.set_memory_decode(true).map_err(|e| e.to_string())?;
        let region = device.region(2).map_err(|e| e.to_string())?;
        let zeros = vec![0; usize::try_from(DEVICE_PAGES * PAGE).map_err(|e| e.to_string())?];
        let cleared = device.write(&region, 0, &zeros);
        cleared.map_err(|e| e.to_string())?;
        let half = DEVICE_PAGES / 2 * PAGE;
        let range = |offset| AddrRange::new(offset, half.into()).ok_or("a range");
        // The upper half first, so that the ranges are not contiguous.
        let file = device.export_dma_buf(2, &[range(half)?, range(0)?]);
        let file = file.map_err(|e| e.to_string())?;
        Ok(Self { device, file })
    }

    /// The dma-buf.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Switches the device's memory decoding on or off.
    ///
    /// # Errors
    /// The error of VFIO.
    pub fn set_answering(&self, on: bool) -> Result<(), String> {
        let set = self.device.set_memory_decode(on);
        set.map(drop).map_err(|e| e.to_string())
    }
}
