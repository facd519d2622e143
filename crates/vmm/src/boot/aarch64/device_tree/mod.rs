// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's device tree. Pure.
//!
//! The bindings are in the kernel's Documentation/devicetree/bindings.

use memory_model::AddrRange;
use vm_fdt::{Error, FdtWriter};

use super::layout::{
    DISTRIBUTOR, ECAM, ITS, Layout, PCI_WINDOW_32, PORTS, REDISTRIBUTOR_SIZE, REDISTRIBUTORS,
    SERIAL, SERIAL_GSI,
};

/// References to nodes.
const GIC: u32 = 1;
const MESSAGES: u32 = 2;

/// Kinds of interrupts: shared and a processor's own.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// Their triggers.
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// The timer's interrupts: secure, non-secure, virtual, hypervisor (Arm Base System
/// Architecture).
const TIMER: [u32; 4] = [13, 14, 11, 10];

/// Address spaces of PCI ranges: ports, memory below and above 4 GiB.
const PCI_PORTS: u32 = 1 << 24;
const PCI_MEMORY_32: u32 = 2 << 24;
const PCI_MEMORY_64: u32 = 3 << 24;

/// The input clock of the serial port, whose speed is 1/16 of it. The emulation does not
/// care.
const SERIAL_CLOCK: u32 = 1_843_200;

/// What the kernel is to know besides the layout.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Where RAM and the PCI windows are.
    pub layout: &'a Layout,
    /// The affinity of each vCPU.
    pub vcpus: &'a [u64],
    /// The kernel parameters.
    pub parameters: &'a str,
    /// The initramfs.
    pub initrd: Option<AddrRange>,
}

/// The device tree of a machine as bytes.
///
/// # Errors
/// The parameters have a zero byte.
pub fn device_tree(of: Description<'_>) -> Result<Vec<u8>, Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_string("model", "vmm boot")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("interrupt-parent", GIC)?;
    chosen(&mut tree, of)?;
    memory(&mut tree, of.layout.ram)?;
    processors(&mut tree, of.vcpus)?;
    timer(&mut tree)?;
    interrupt_controller(&mut tree, of.vcpus.len())?;
    serial(&mut tree)?;
    pci(&mut tree, of.layout.pci_window_64)?;
    tree.end_node(root)?;
    tree.finish()
}

fn chosen(tree: &mut FdtWriter, of: Description<'_>) -> Result<(), Error> {
    let node = tree.begin_node("chosen")?;
    tree.property_string("bootargs", of.parameters)?;
    tree.property_string("stdout-path", &named("/serial", SERIAL.0))?;
    if let Some(initrd) = of.initrd {
        tree.property_u64("linux,initrd-start", initrd.start())?;
        tree.property_u64("linux,initrd-end", initrd.last() + 1)?;
    }
    tree.end_node(node)
}

fn memory(tree: &mut FdtWriter, ram: AddrRange) -> Result<(), Error> {
    let node = tree.begin_node(&named("memory", ram.start()))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[ram.start(), size(ram)])?;
    tree.end_node(node)
}

/// The processors, and how the kernel starts them and switches the machine off.
fn processors(tree: &mut FdtWriter, vcpus: &[u64]) -> Result<(), Error> {
    let node = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 0)?;
    for affinity in vcpus {
        let cpu = tree.begin_node(&named("cpu", *affinity))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u64("reg", *affinity)?;
        tree.end_node(cpu)?;
    }
    tree.end_node(node)?;
    let node = tree.begin_node("psci")?;
    let compatible = ["arm,psci-1.0", "arm,psci-0.2"];
    tree.property_string_list("compatible", compatible.map(String::from).into())?;
    tree.property_string("method", "hvc")?;
    tree.end_node(node)
}

fn timer(tree: &mut FdtWriter) -> Result<(), Error> {
    let node = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    let interrupts = TIMER.map(|number| [PPI, number, LEVEL_HIGH]);
    tree.property_array_u32("interrupts", interrupts.as_flattened())?;
    tree.property_null("always-on")?;
    tree.end_node(node)
}

fn interrupt_controller(tree: &mut FdtWriter, vcpus: usize) -> Result<(), Error> {
    let redistributors = REDISTRIBUTOR_SIZE * vcpus as u64;
    let node = tree.begin_node(&named("interrupt-controller", DISTRIBUTOR.0))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    let (start, size) = DISTRIBUTOR;
    let registers = [start, size, REDISTRIBUTORS, redistributors];
    tree.property_array_u64("reg", &registers)?;
    tree.property_phandle(GIC)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_null("ranges")?;
    let its = tree.begin_node(&named("msi-controller", ITS.0))?;
    tree.property_string("compatible", "arm,gic-v3-its")?;
    tree.property_null("msi-controller")?;
    tree.property_u32("#msi-cells", 1)?;
    tree.property_array_u64("reg", &[ITS.0, ITS.1])?;
    tree.property_phandle(MESSAGES)?;
    tree.end_node(its)?;
    tree.end_node(node)
}

/// The serial port. Its irqfd raises the interrupt for a moment.
fn serial(tree: &mut FdtWriter) -> Result<(), Error> {
    let node = tree.begin_node(&named("serial", SERIAL.0))?;
    tree.property_string("compatible", "ns16550a")?;
    tree.property_array_u64("reg", &[SERIAL.0, SERIAL.1])?;
    tree.property_array_u32("interrupts", &[SPI, SERIAL_GSI, EDGE_RISING])?;
    tree.property_u32("clock-frequency", SERIAL_CLOCK)?;
    tree.end_node(node)
}

/// The host bridge. Messages of all functions go to the ITS, with the functions' own
/// numbers. There are no other interrupts.
fn pci(tree: &mut FdtWriter, above: AddrRange) -> Result<(), Error> {
    let node = tree.begin_node(&named("pcie", ECAM.0))?;
    tree.property_string("compatible", "pci-host-ecam-generic")?;
    tree.property_string("device_type", "pci")?;
    tree.property_array_u64("reg", &[ECAM.0, ECAM.1])?;
    tree.property_array_u32("bus-range", &[0, 0])?;
    tree.property_u32("#address-cells", 3)?;
    tree.property_u32("#size-cells", 2)?;
    // PCI's address, the processor's address and the size of each window.
    let window = |space, pci: u64, (start, size): (u64, u64)| {
        let [pci, start, size] = [pci, start, size].map(cells);
        [space, pci[0], pci[1], start[0], start[1], size[0], size[1]]
    };
    let ranges = [
        window(PCI_PORTS, 0, PORTS),
        window(PCI_MEMORY_32, PCI_WINDOW_32.0, PCI_WINDOW_32),
        window(PCI_MEMORY_64, above.start(), (above.start(), size(above))),
    ];
    tree.property_array_u32("ranges", ranges.as_flattened())?;
    tree.property_null("dma-coherent")?;
    tree.property_array_u32("msi-map", &[0, MESSAGES, 0, 0x1_0000])?;
    tree.end_node(node)
}

/// A node's name with its address.
fn named(name: &str, address: u64) -> String {
    format!("{name}@{address:x}")
}

/// The size of a range that does not cover all addresses.
fn size(range: AddrRange) -> u64 {
    range.size_u64().unwrap_or(u64::MAX)
}

/// The upper and the lower half.
fn cells(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
