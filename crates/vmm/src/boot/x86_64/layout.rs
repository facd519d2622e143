// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's addresses: where RAM, PCI windows, tables and ports are. Pure.

use memory_model::AddrRange;

use crate::boot::layout::{LayoutError, check_ram, upper_half};
use crate::boot::pci::windows::PciWindows;

/// The end of RAM below 4 GiB. More RAM starts at 4 GiB.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// The start of RAM above 4 GiB.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// The PCI memory window below 4 GiB.
pub const PCI_WINDOW_32: (u64, u64) = (0xc000_0000, 0x2000_0000);
/// PCI configuration space of bus 0, memory mapped (ECAM).
pub const ECAM: (u64, u64) = (0xe000_0000, 0x10_0000);
/// The I/O APIC.
pub const IO_APIC: u64 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages for KVM on Intel processors (`KVM_SET_TSS_ADDR`), after one for
/// `KVM_SET_IDENTITY_MAP_ADDR`.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// See [`KVM_IDENTITY_MAP`].
pub const KVM_TSS: u64 = 0xfffb_d000;

/// The descriptor table, until the kernel has its own.
pub const GDT: u64 = 0x500;
/// The zero page, `struct boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// The page tables, until the kernel has its own: 6 pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The most bytes of the command line, with its terminator.
pub const COMMAND_LINE_SIZE: u64 = 0x1_0000;
/// The end of RAM below 1 MiB.
pub const BASE_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables, the RSDP first. Reserved up to 1 MiB.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// The end of the room for ACPI tables, and the start of the kernel.
pub const KERNEL: u64 = 0x10_0000;
/// The BIOS's flag for a warm reset. Linux writes [`WARM_RESET`] there before a
/// warm reset (arch/x86/kernel/reboot.c).
pub const RESET_FLAG: u64 = 0x472;
/// The value of the flag.
pub const WARM_RESET: u16 = 0x1234;

/// The first serial port, 8 ports.
pub const COM1: u16 = 0x3f8;
/// The GSI of the first serial port.
pub const COM1_GSI: u32 = 4;
/// The ports of PCI configuration space: the address, then the data.
pub const PCI_CONFIG_PORTS: (u16, u16) = (0xcf8, 8);
/// Three ports: sleep control, sleep status, reset.
pub const POWER_PORTS: (u16, u16) = (0x600, 3);
/// The PCI I/O window.
pub const PCI_PORT_WINDOW: (u16, u16) = (0x1000, 0xf000);

/// The ranges that depend on the size of RAM and the width of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM below 4 GiB.
    pub low_ram: AddrRange,
    /// RAM above 4 GiB.
    pub high_ram: Option<AddrRange>,
    /// The PCI memory window above RAM.
    pub pci_window_64: AddrRange,
}

/// The size of a page.
const PAGE: u64 = 4096;

impl Layout {
    /// The layout for `memory` bytes of RAM, with guest-physical addresses of `bits`
    /// bits. The upper half of the addresses, up to 2^46, is the PCI window.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(memory: u64, bits: u32) -> Result<Self, LayoutError> {
        check_ram(memory, PAGE)?;
        let too_large = LayoutError::TooLarge { memory, bits };
        let half = upper_half(bits);
        let low = memory.min(LOW_RAM_END);
        let high = match memory - low {
            0 => None,
            size => Some(AddrRange::new(HIGH_RAM_START, size.into()).ok_or(too_large)?),
        };
        let end = high.map_or(HIGH_RAM_START, |high| high.last() + 1);
        if end > half {
            return Err(too_large);
        }
        let range = |start, size: u64| AddrRange::new(start, size.into());
        Ok(Self {
            low_ram: range(0, low).ok_or(too_large)?,
            high_ram: high,
            pci_window_64: range(half, half).ok_or(too_large)?,
        })
    }

    /// RAM, from the lowest address up.
    pub fn ram(&self) -> impl Iterator<Item = AddrRange> {
        [Some(self.low_ram), self.high_ram].into_iter().flatten()
    }

    /// The addresses that the host bridge passes on to the bus.
    pub fn pci_windows(&self) -> PciWindows {
        let below = AddrRange::new(PCI_WINDOW_32.0, PCI_WINDOW_32.1.into());
        let (first, ports) = PCI_PORT_WINDOW;
        let ports = AddrRange::new(first.into(), ports.into());
        PciWindows::new(below.into_iter().chain([self.pci_window_64]), ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_out_the_addresses_below_four_gibibytes_that_devices_need() {
        let layout = Layout::new(4 << 30, 40).unwrap();
        let sizes: Vec<(u64, u64)> = layout.ram().map(|r| (r.start(), r.last())).collect();
        assert_eq!(
            sizes,
            [(0, LOW_RAM_END - 1), (HIGH_RAM_START, (5 << 30) - 1)]
        );
        assert_eq!(layout.pci_window_64.start(), 1 << 39);
        assert_eq!(Layout::new(512 << 20, 40).unwrap().high_ram, None);
    }

    #[test]
    fn ram_that_does_not_fit_is_an_error() {
        let error = Layout::new(1 << 20, 40).unwrap_err();
        assert!(matches!(error, LayoutError::TooSmall { .. }));
        let error = Layout::new((64 << 20) + 1, 40).unwrap_err();
        assert!(matches!(error, LayoutError::Unaligned { .. }));
        for (memory, bits) in [(64 << 30, 36), (1 << 46, 52), (u64::MAX - 4095, 64)] {
            let error = Layout::new(memory, bits).unwrap_err();
            assert_eq!(error, LayoutError::TooLarge { memory, bits });
        }
    }
}
