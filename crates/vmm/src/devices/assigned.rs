// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real devices, assigned to the guest with VFIO.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use vfio_private::config::ConfigSpace;
use vfio_private::device::{Device, DeviceError, Iommu, Mapping, PciAddress, VfioInterface};
use vfio_private::region_info::RegionInfo;
use vfio_private::{AddrRange, BarIndex, Msix, MsixPart};

use crate::machine::{AssignedBar, DeviceName, RealBar};
use bar_report::with_causes;

/// The devices of a VM, each opened once.
#[derive(Debug, Default)]
pub struct AssignedDevices {
    open: Mutex<BTreeMap<PciAddress, Arc<AssignedDevice>>>,
}

/// Why a device cannot be assigned, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device {device} cannot be assigned: {why}")]
pub struct AssignError {
    /// Its name in the machine file.
    pub device: DeviceName,
    /// Why not.
    pub why: String,
}

impl AssignedDevices {
    /// A BAR of a device, which is opened unless it is open already.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn bar(&self, name: AssignedBar) -> Result<BarWindow, AssignError> {
        let failed = |why| AssignError {
            device: name.device,
            why,
        };
        let address = name.device.find().map_err(failed)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let device = match open.get(&address) {
            Some(device) => Arc::clone(device),
            None => {
                let device = AssignedDevice::open(address);
                let device = Arc::new(device.map_err(|e| failed(with_causes(&e)))?);
                open.insert(address, Arc::clone(&device));
                device
            }
        };
        let region = device.device.region(name.bar.get().into());
        Ok(BarWindow {
            region: Arc::new(region.map_err(|e| failed(with_causes(&e)))?),
            device,
            bar: name.bar,
            start: 0,
        })
    }
}

/// Opens a device through its group, which all kernels with VFIO have; if that
/// fails, through its own file.
///
/// # Errors
/// [`DeviceError`]: if both fail, that of the group, which more users know.
pub fn open(address: PciAddress) -> Result<Device, DeviceError> {
    by_either_interface(|interface| Device::open(&Iommu::new(interface)?, address))
}

/// Tries the groups, and then, if that fails, the devices' own files.
///
/// # Errors
/// If both fail, that of the groups.
pub(crate) fn by_either_interface<T, E>(
    open: impl Fn(VfioInterface) -> Result<T, E>,
) -> Result<T, E> {
    let by_group = open(VfioInterface::LegacyGroup);
    by_group.or_else(|error| open(VfioInterface::Cdev).map_err(|_| error))
}

/// An open device. Its memory decoding is on when it is opened.
#[derive(Debug)]
pub struct AssignedDevice {
    device: Device,
    msix: Option<Msix>,
}

impl AssignedDevice {
    fn open(address: PciAddress) -> Result<Self, DeviceError> {
        let device = open(address)?;
        device.set_memory_decode(true)?;
        let config = device.config_space()?;
        let msix = ConfigSpace::new(&config).and_then(|config| config.msix());
        let msix = msix.map_err(|source| DeviceError::Config { address, source })?;
        Ok(Self { device, msix })
    }

    /// The device itself.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// A BAR of a device from some byte on. The VMM accesses it with system calls, for
/// trapped accesses and for its own: a device that does not answer is then an
/// error, and not a signal that ends the process.
#[derive(Clone, Debug)]
pub struct BarWindow {
    device: Arc<AssignedDevice>,
    region: Arc<RegionInfo>,
    bar: BarIndex,
    start: u64,
}

impl BarWindow {
    /// The BAR as the device reports it.
    pub fn found(&self) -> RealBar<'_> {
        RealBar {
            region: &self.region,
            msix: self.device.msix,
        }
    }

    /// The device.
    pub fn assigned(&self) -> &Arc<AssignedDevice> {
        &self.device
    }

    /// The same BAR from `offset` on.
    #[must_use]
    pub fn from(&self, offset: u64) -> Self {
        Self {
            start: self.start + offset,
            ..self.clone()
        }
    }

    /// A mapping of bytes of the BAR.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn map(&self, range: AddrRange) -> Result<Arc<Mapping>, DeviceError> {
        Ok(Arc::new(self.device.device.map(&self.region, range)?))
    }

    /// The whole BAR as a dma-buf.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn dma_buf(&self) -> Result<OwnedFd, DeviceError> {
        let all = AddrRange::new(0, self.region.size.into());
        let all: Vec<AddrRange> = all.into_iter().collect();
        let device = &self.device.device;
        device.export_dma_buf(self.bar.get().into(), &all)
    }

    /// Reads bytes from `offset` in the window on.
    ///
    /// # Errors
    /// What VFIO says.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = self.start.saturating_add(offset);
        let read = self.device.device.read(&self.region, at, data);
        read.map_err(io::Error::other)
    }

    /// Writes bytes, as [`read`](Self::read) reads them.
    ///
    /// # Errors
    /// What VFIO says.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = self.start.saturating_add(offset);
        let written = self.device.device.write(&self.region, at, data);
        written.map_err(io::Error::other)
    }

    /// Whether bytes are part of an MSI-X structure. VFIO does not let userspace
    /// access those, so the VMM emulates them.
    pub fn is_msix(&self, offset: u64, len: usize) -> bool {
        let start = self.start.saturating_add(offset);
        let end = start.saturating_add(len as u64);
        self.device.msix.is_some_and(|msix| {
            let parts = [MsixPart::Table, MsixPart::Pba].map(|part| msix.place(part));
            let mut parts = parts.into_iter().filter(|part| part.bar == self.bar);
            parts.any(|part| part.range.start() < end && start <= part.range.last())
        })
    }
}
