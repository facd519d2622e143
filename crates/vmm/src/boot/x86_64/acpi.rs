// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's ACPI tables. Pure.
//!
//! The machine is *hardware-reduced*: it has no PM1 registers, PM timer or SCI.
//! Linux then ignores the 8259 PIC and the 8254 timer too
//! (`acpi_generic_reduced_hw_init`). It needs the TSC's frequency from kvmclock,
//! CPUID or the parameter `tsc_early_khz`, and hangs without.
//!
//! The power device is three one-byte ports from [`POWER_PORTS`]:
//!
//! | port | register | the guest |
//! | --- | --- | --- |
//! | +0 | sleep control | writes `SLP_TYP << 2 \| 1 << 5`; [`SLEEP_OFF`] switches off |
//! | +1 | sleep status | writes 0x80 before it sleeps, then polls bit 7; read as 0 |
//! | +2 | reset | writes [`RESET_VALUE`], given [`REBOOT_PARAMETER`] |
//!
//! There is no `_PRT`: PCI functions have no interrupts but MSI, and Linux leaves
//! INTx alone. The MADT overrides no ISA interrupt, because Linux routes none on a
//! hardware-reduced machine.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use super::layout::{
    ACPI_TABLES, COM1, COM1_GSI, ECAM, IO_APIC, LOCAL_APIC, Layout, PCI_CONFIG_PORTS,
    PCI_PORT_WINDOW, PCI_WINDOW_32, POWER_PORTS,
};

/// The sleep type (`SLP_TYP`) of the state that switches the machine off, S5.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// What the guest writes to the sleep control register to switch the machine off:
/// the sleep type and the enable bit, `SLP_EN`.
pub const SLEEP_OFF: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;
/// What the guest writes to the reset register.
pub const RESET_VALUE: u8 = 1;
/// The kernel parameter with which Linux uses the reset register. Without it, Linux
/// takes a hardware-reduced machine for one with EFI (`reboot_init` in
/// arch/x86/kernel/reboot.c), finds none, and jumps to the BIOS in real mode.
pub const REBOOT_PARAMETER: &str = "reboot=acpi";

/// Which devices the machine has.
///
/// Both devices trap accesses to memory. KVM then reads the guest's instruction,
/// which it cannot do in private memory: a confidential guest has neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiOptions {
    /// The I/O APIC. Without one, COM1 has no interrupt and Linux polls it.
    pub io_apic: bool,
    /// PCI configuration space in memory. Without it, Linux uses the ports, which
    /// reach the first 256 bytes of each function.
    pub ecam: bool,
}

const OEM: [u8; 6] = *b"VMM   ";
const OEM_TABLE: [u8; 8] = *b"VMMBOOT ";
const OEM_REVISION: u32 = 1;

/// `IAPC_BOOT_ARCH` of the FADT: no VGA, no PCIe ASPM, no CMOS clock; and as their
/// bits are clear, no other legacy devices and no keyboard controller.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 4 | 1 << 5;

/// The ACPI tables for `cpus` vCPUs whose APIC ids count from 0, as bytes to be
/// placed at [`ACPI_TABLES`]. The RSDP is first.
pub fn tables(layout: &Layout, cpus: u8, options: AcpiOptions) -> Vec<u8> {
    let mut blob = vec![0; Rsdp::len()];
    let dsdt = append(&mut blob, &dsdt(layout, options));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(append(&mut blob, &fadt(dsdt)));
    xsdt.add_entry(append(&mut blob, &madt(cpus, options)));
    if options.ecam {
        xsdt.add_entry(append(&mut blob, &mcfg()));
    }
    let xsdt = append(&mut blob, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    blob[..rsdp.len()].copy_from_slice(&rsdp);
    blob
}

/// Appends a table, aligned to 16 bytes, and returns its guest-physical address.
fn append(blob: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    blob.resize(blob.len().next_multiple_of(16), 0);
    let address = ACPI_TABLES + blob.len() as u64;
    table.to_aml_bytes(blob);
    address
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |offset| {
        let address = u64::from(POWER_PORTS.0 + offset);
        GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, address)
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.sleep_control_reg = port(0);
    fadt.sleep_status_reg = port(1);
    fadt.reset_reg = port(2);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn madt(cpus: u8, options: AcpiOptions) -> impl Aml {
    let address = LocalInterruptController::Address(const { low(LOCAL_APIC) });
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, address);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    if options.io_apic {
        madt.add_structure(IoApic::new(0, const { low(IO_APIC) }, 0));
    }
    madt
}

fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM.0, 0, 0, 0);
    mcfg
}

fn dsdt(layout: &Layout, options: AcpiOptions) -> impl Aml {
    // From revision 2 on, integers have 64 bits.
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    host_bridge(layout, &mut dsdt);
    motherboard(options, &mut dsdt);
    serial_port(options, &mut dsdt);
    let off = Package::new(vec![&SLEEP_TYPE_OFF, &aml::ZERO]);
    Name::new("\\_S5_".into(), &off).to_aml_bytes(&mut dsdt);
    dsdt
}

/// PCI bus 0, its windows and the ports of its configuration space.
fn host_bridge(layout: &Layout, dsdt: &mut Sdt) {
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let config = io(PCI_CONFIG_PORTS.0, const { byte(PCI_CONFIG_PORTS.1) });
    let (start, size) = PCI_PORT_WINDOW;
    let ports = AddressSpace::new_io(start, start + (size - 1), None);
    let (start_32, size_32) = const { (low(PCI_WINDOW_32.0), low(PCI_WINDOW_32.1)) };
    let memory_32 = memory(start_32, start_32 + (size_32 - 1));
    let memory_64 = memory(layout.pci_window_64.start(), layout.pci_window_64.last());
    let resources = ResourceTemplate::new(vec![&bus, &config, &ports, &memory_32, &memory_64]);
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_SEG".into(), &aml::ZERO),
            &Name::new("_BBN".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(dsdt);
}

/// Reserves what no other device has. Linux uses ECAM only if it is reserved.
fn motherboard(options: AcpiOptions, dsdt: &mut Sdt) {
    let power = io(POWER_PORTS.0, const { byte(POWER_PORTS.1) });
    let ecam = Memory32Fixed::new(true, const { low(ECAM.0) }, const { low(ECAM.1) });
    let mut resources: Vec<&dyn Aml> = vec![&power];
    if options.ecam {
        resources.push(&ecam);
    }
    device("_SB_.MBRD", "PNP0C02", resources, dsdt);
}

fn serial_port(options: AcpiOptions, dsdt: &mut Sdt) {
    let ports = io(COM1, 8);
    let interrupt = Interrupt::new(true, true, false, false, COM1_GSI);
    let mut resources: Vec<&dyn Aml> = vec![&ports];
    if options.io_apic {
        resources.push(&interrupt);
    }
    device("_SB_.COM1", "PNP0501", resources, dsdt);
}

fn device(path: &str, id: &str, resources: Vec<&dyn Aml>, dsdt: &mut Sdt) {
    Device::new(
        path.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    )
    .to_aml_bytes(dsdt);
}

fn memory<T: Default>(first: T, last: T) -> AddressSpace<T> {
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

fn io(start: u16, size: u8) -> IO {
    IO::new(start, start, 1, size)
}

/// An address or size of the layout that is below 4 GiB, or the build fails.
#[expect(clippy::cast_possible_truncation, reason = "checked")]
const fn low(value: u64) -> u32 {
    assert!(value <= u32::MAX as u64);
    value as u32
}

/// A size of the layout that fits a byte, or the build fails.
#[expect(clippy::cast_possible_truncation, reason = "checked")]
const fn byte(value: u16) -> u8 {
    assert!(value <= u8::MAX as u16);
    value as u8
}

#[cfg(test)]
mod tests {
    use super::super::layout::KERNEL;
    use super::*;

    const ALL: AcpiOptions = AcpiOptions {
        io_apic: true,
        ecam: true,
    };
    const NONE: AcpiOptions = AcpiOptions {
        io_apic: false,
        ecam: false,
    };

    fn layout() -> Layout {
        Layout::new(4 << 30, 40).unwrap()
    }

    fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
        let field = &bytes[offset..offset + size];
        (field.iter().rev()).fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at the address in `pointer`, of the length that it says.
    fn table(blob: &[u8], pointer: u64) -> &[u8] {
        let table = &blob[usize::try_from(pointer - ACPI_TABLES).unwrap()..];
        let size = usize::try_from(number(table, 4, 4)).unwrap();
        let table = &table[..size];
        assert_eq!(sum(table), 0, "{}", table[..4].escape_ascii());
        table
    }

    /// The tables that the XSDT names, as a guest finds them, and the DSDT.
    fn find(blob: &[u8]) -> Vec<&[u8]> {
        assert_eq!(&blob[..8], b"RSD PTR ");
        assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0));
        let xsdt = table(blob, number(blob, 24, 8));
        assert_eq!(&xsdt[..4], b"XSDT");
        let pointers = (36..xsdt.len()).step_by(8).map(|at| number(xsdt, at, 8));
        let mut tables: Vec<&[u8]> = pointers.map(|pointer| table(blob, pointer)).collect();
        tables.push(table(blob, number(tables[0], 140, 8)));
        tables
    }

    fn names(blob: &[u8]) -> Vec<String> {
        let tables = find(blob).into_iter();
        tables.map(|t| t[..4].escape_ascii().to_string()).collect()
    }

    fn holds(table: &[u8], bytes: &[u8]) -> bool {
        table.windows(bytes.len()).any(|window| window == bytes)
    }

    #[test]
    fn a_guest_finds_each_table_and_its_checksum_is_right() {
        let [all, none] = [ALL, NONE].map(|options| names(&tables(&layout(), 2, options)));
        assert_eq!(all, ["FACP", "APIC", "MCFG", "DSDT"]);
        assert_eq!(none, ["FACP", "APIC", "DSDT"]);
    }

    #[test]
    fn tables_for_the_most_cpus_end_below_the_kernel() {
        let blob = tables(&layout(), u8::MAX, ALL);
        assert!(ACPI_TABLES + blob.len() as u64 <= KERNEL);
        let madt = find(&blob)[1];
        assert_eq!(madt.len(), 44 + 255 * 8 + 12);
        assert_eq!(&madt[44 + 254 * 8..][..8], [0, 8, 254, 254, 1, 0, 0, 0]);
    }

    #[test]
    fn the_power_registers_are_the_ports_of_the_power_device() {
        let blob = tables(&layout(), 1, ALL);
        let fadt = find(&blob)[0];
        let flags = number(fadt, 112, 4);
        assert_eq!(
            (fadt[8], flags & (1 << 20), flags & (1 << 10)),
            (6, 1 << 20, 1 << 10)
        );
        for (field, port) in [(244, 0), (256, 1), (116, 2)] {
            assert_eq!(fadt[field..field + 4], [1, 8, 0, 1]);
            let port = u64::from(POWER_PORTS.0 + port);
            assert_eq!(number(fadt, field + 4, 8), port);
        }
        assert_eq!(fadt[128], RESET_VALUE);
        assert!(holds(find(&blob)[3], b"_S5_\x12\x05\x02\x0a\x05\0"));
    }

    #[test]
    fn the_host_bridge_has_the_windows_of_the_layout() {
        let layout = layout();
        let blob = tables(&layout, 1, ALL);
        let dsdt = find(&blob)[3];
        let window = |size: usize, head: [u8; 6], (first, last): (u64, u64)| {
            let mut bytes = head.to_vec();
            for value in [0, first, last, 0, last - first + 1] {
                bytes.extend_from_slice(&value.to_le_bytes()[..size]);
            }
            bytes
        };
        let ends = |(start, size): (u64, u64)| (start, start + size - 1);
        let ports = (PCI_PORT_WINDOW.0.into(), PCI_PORT_WINDOW.1.into());
        let window_64 = (layout.pci_window_64.start(), layout.pci_window_64.last());
        assert!(holds(dsdt, &window(2, [0x88, 13, 0, 2, 12, 0], (0, 0))));
        assert!(holds(
            dsdt,
            &window(2, [0x88, 13, 0, 1, 12, 3], ends(ports))
        ));
        assert!(holds(
            dsdt,
            &window(4, [0x87, 23, 0, 0, 12, 1], ends(PCI_WINDOW_32))
        ));
        assert!(holds(dsdt, &window(8, [0x8a, 43, 0, 0, 12, 1], window_64)));
    }

    #[test]
    fn a_guest_without_mmio_finds_no_io_apic_no_ecam_and_no_interrupt_of_com1() {
        let [all, none] = [ALL, NONE].map(|options| tables(&layout(), 2, options));
        let (all, none) = (find(&all), find(&none));
        let [io_apic, ecam] = [IO_APIC, ECAM.0].map(|address| low(address).to_le_bytes());
        let interrupt = [&[0x89, 6, 0, 3, 1][..], &COM1_GSI.to_le_bytes()].concat();
        assert!(holds(all[1], &io_apic) && !holds(none[1], &io_apic));
        assert!(holds(all[2], &ecam) && holds(all[3], &ecam) && !holds(none[2], &ecam));
        assert!(holds(all[3], &interrupt) && !holds(none[2], &interrupt));
    }
}
