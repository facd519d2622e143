// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Configuration space of an open device, as VFIO shows and guards it.

use vfio_bindings::bindings::vfio as uapi;

use super::Device;
use super::error::DeviceError;
use crate::reach::Reach;

/// The command register, and its bit for memory decoding (PCI Express Base Specification, 7.5.1.1).
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;

impl Device {
    /// All of configuration space: for [`ConfigSpace`](crate::config::ConfigSpace).
    ///
    /// # Errors
    ///
    /// [`DeviceError::Access`].
    pub fn config_space(&self) -> Result<Vec<u8>, DeviceError> {
        // VFIO's region is as long as the device's space: 256 or 4096 bytes.
        let size = usize::try_from(self.config.size).unwrap_or(0);
        let mut bytes = vec![0; size.min(0x1000)];
        self.read_config(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads configuration space.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Outside`], [`DeviceError::Access`].
    pub fn read_config(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        debug_assert_eq!(self.config.index, uapi::VFIO_PCI_CONFIG_REGION_INDEX);
        self.read(&self.config, offset, data)
    }

    /// Writes configuration space. The kernel protects or emulates what a guest may not change.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Outside`], [`DeviceError::Access`].
    pub fn write_config(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(&self.config, offset, data)
    }

    /// Whether the device answers at its memory BARs, and which write would change that. Check it
    /// before [`write_config`](Self::write_config) carries out a guest's write.
    ///
    /// # Errors
    ///
    /// As for [`config_space`](Self::config_space), and [`DeviceError::Config`].
    pub fn reach(&self) -> Result<Reach, DeviceError> {
        Reach::of(&self.config_space()?).map_err(|source| DeviceError::Config {
            address: self.address,
            source,
        })
    }

    /// Whether memory decoding is on.
    ///
    /// # Errors
    ///
    /// As for [`read_config`](Self::read_config).
    pub fn memory_decode(&self) -> Result<bool, DeviceError> {
        Ok(self.command()? & MEMORY_SPACE != 0)
    }

    /// Switches memory decoding. **It is off when a device is opened**. Switch it on before accessing
    /// memory BARs and before exporting a dma-buf, which is revoked from the start otherwise.
    /// Whether it was on before.
    ///
    /// # Errors
    ///
    /// As for [`read_config`](Self::read_config).
    pub fn set_memory_decode(&self, on: bool) -> Result<bool, DeviceError> {
        let command = self.command()?;
        let wanted = match on {
            true => command | MEMORY_SPACE,
            false => command & !MEMORY_SPACE,
        };
        self.write_config(COMMAND, &wanted.to_le_bytes())?;
        Ok(command & MEMORY_SPACE != 0)
    }

    fn command(&self) -> Result<u16, DeviceError> {
        let mut command = [0; 2];
        self.read_config(COMMAND, &mut command)?;
        Ok(u16::from_le_bytes(command))
    }
}
