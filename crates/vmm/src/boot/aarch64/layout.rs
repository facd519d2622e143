// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's addresses: where RAM, PCI windows and devices are. Pure.
//!
//! Devices reach RAM at the same addresses. Linux keeps the IOVAs from 0x800_0000 to
//! 0x80f_ffff for messages (`MSI_IOVA_BASE`, drivers/iommu/arm/arm-smmu-v3), so RAM is
//! above them.

use memory_model::AddrRange;

use crate::boot::layout::{LayoutError, check_ram, upper_half};
use crate::boot::pci::windows::PciWindows;

/// The distributor of the interrupt controller.
pub const DISTRIBUTOR: (u64, u64) = (0x800_0000, 0x1_0000);
/// The interrupt translation service. The guest's messages go to its second page.
pub const ITS: (u64, u64) = (0x808_0000, 0x2_0000);
/// The redistributors, one for each vCPU.
pub const REDISTRIBUTORS: u64 = 0x80a_0000;
/// The size of a redistributor.
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The serial port's registers.
pub const SERIAL: (u64, u64) = (0x900_0000, 8);
/// The SPI and the GSI of the serial port.
pub const SERIAL_GSI: u32 = 0;
/// The memory in which the I/O ports of PCI show.
pub const PORTS: (u64, u64) = (0xa00_0000, 0x1_0000);
/// The PCI memory window below 4 GiB.
pub const PCI_WINDOW_32: (u64, u64) = (0x1000_0000, 0x2000_0000);
/// PCI configuration space of bus 0, memory mapped (ECAM).
pub const ECAM: (u64, u64) = (0x3000_0000, 0x10_0000);
/// The start of RAM.
pub const RAM: u64 = 0x4000_0000;

/// The ports that BARs may have. Linux takes port 0 for none.
pub const PCI_PORT_WINDOW: (u64, u64) = (0x1000, 0xf000);

/// The device tree is at the start of RAM, and has room for as much as Linux maps.
pub const DEVICE_TREE_SIZE: u64 = 0x20_0000;
/// The address from which the kernel counts its offset, a multiple of 2 MiB.
pub const KERNEL_BASE: u64 = RAM + DEVICE_TREE_SIZE;

/// The ranges that depend on the size of RAM and the width of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM.
    pub ram: AddrRange,
    /// The PCI memory window above RAM.
    pub pci_window_64: AddrRange,
}

impl Layout {
    /// The layout for `memory` bytes of RAM, in pages of `page` bytes, with guest-physical
    /// addresses of `bits` bits. The upper half of the addresses, up to 2^46, is the PCI
    /// window.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(memory: u64, page: u64, bits: u32) -> Result<Self, LayoutError> {
        check_ram(memory, page)?;
        let too_large = LayoutError::TooLarge { memory, bits };
        let half = upper_half(bits);
        if RAM.checked_add(memory).is_none_or(|end| end > half) {
            return Err(too_large);
        }
        let range = |start, size: u64| AddrRange::new(start, size.into());
        Ok(Self {
            ram: range(RAM, memory).ok_or(too_large)?,
            pci_window_64: range(half, half).ok_or(too_large)?,
        })
    }

    /// The addresses that the host bridge passes on to the bus.
    pub fn pci_windows(&self) -> PciWindows {
        let range = |(start, size): (u64, u64)| AddrRange::new(start, size.into());
        let below = range(PCI_WINDOW_32);
        PciWindows::new(
            below.into_iter().chain([self.pci_window_64]),
            range(PCI_PORT_WINDOW),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ranges_overlap_whatever_the_number_of_vcpus() {
        let layout = Layout::new(64 << 30, 4096, 40).unwrap();
        let redistributors = (REDISTRIBUTORS, 64 * REDISTRIBUTOR_SIZE);
        let fixed = [
            DISTRIBUTOR,
            ITS,
            redistributors,
            SERIAL,
            PORTS,
            PCI_WINDOW_32,
            ECAM,
        ];
        let fixed = fixed.map(|(start, size)| AddrRange::new(start, size.into()).unwrap());
        let mut all: Vec<AddrRange> = fixed.to_vec();
        all.extend([layout.ram, layout.pci_window_64]);
        for (number, one) in all.iter().enumerate() {
            for other in &all[number + 1..] {
                assert!(!one.overlaps(*other), "{one} {other}");
            }
        }
    }

    #[test]
    fn ram_is_above_the_addresses_that_an_iommu_keeps_for_messages() {
        let layout = Layout::new(256 << 20, 4096, 40).unwrap();
        let messages = AddrRange::new(0x800_0000, 0x10_0000).unwrap();
        assert!(layout.ram.start() > messages.last());
        assert_eq!(layout.pci_window_64.start(), 1 << 39);
    }

    #[test]
    fn ram_that_does_not_fit_is_an_error() {
        let error = Layout::new(1 << 20, 4096, 40).unwrap_err();
        assert!(matches!(error, LayoutError::TooSmall { .. }));
        let (memory, page) = ((64 << 20) + 4096, 16384);
        let error = Layout::new(memory, page, 40).unwrap_err();
        assert_eq!(error, LayoutError::Unaligned { memory, page });
        assert!(Layout::new(memory, 4096, 40).is_ok());
        for (memory, bits) in [(32 << 30, 36), (1 << 46, 48), (u64::MAX - 4095, 64)] {
            let error = Layout::new(memory, 4096, bits).unwrap_err();
            assert_eq!(error, LayoutError::TooLarge { memory, bits });
        }
    }
}
