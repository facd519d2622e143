// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guesses the facts that a dump does not contain.
//!
//! Five facts that decide a flat view are not in `info mtree`: whether a region
//! that is not memory answers accesses or only contains others; whether an
//! alias is read-only; which of two overlapping siblings of equal priority was
//! added last; whether a region has 0 bytes or 1; and whether KVM runs the
//! machine. Rules about the *shape* of a region guess each fact where possible.
//! Otherwise the name that a device model gives the region decides. No rule
//! depends on the machine.

use crate::region_type::RegionType;

/// The input of the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: u128,
    pub(crate) priority: i32,
    /// Whether the region has a parent.
    pub(crate) placed: bool,
    /// The address of the first child; `None` if there is no child.
    pub(crate) first_child: Option<u64>,
    /// Whether a child has the region's own name.
    pub(crate) namesake: bool,
    /// Whether a region has children whose name differs only in its digits.
    pub(crate) resembles_parent: bool,
}

/// Regions that answer accesses although a child starts at offset 0.
const ANSWERS: &[&str] = &[
    // Port spaces: a port without a device reads as all ones.
    "io",
    "pci0-io",
    "iocsr",
    "articia",
    "nubus-super-slots",
    "nubus-slots",
    // PC devices whose children cover only some of their registers.
    "rtc",
    "via-pm",
    "vga.mmio",
    "bochs-display-mmio",
    // Boards and chips that log accesses to missing devices.
    "xtfpga.io",
    "cfam",
    "aspeed.smc.flash",
    "xlnx.versal-canfd",
    // Windows of a host bridge to several PCI buses.
    "LMMIO",
    "GMMIO",
    "ram",
];

/// Suffixes of names of such regions.
const ANSWERS_SUFFIX: &[&str] = &[
    // The background that PCI host bridges put behind their windows.
    "_window",
    "pci-isa-mmio",
];

/// Containers, even without children.
const CONTAINERS: &[&str] = &[
    "system",
    "platform bus",
    "device-memory",
    "cxl_host_reg",
    "e1000e-flash",
    "igb-flash",
    "virtio-mem",
    "xive-vc-ipi",
    "xive-vc-end",
];

/// Containers if a PCI device has them as a BAR. Other devices have registers
/// of these names.
const CONTAINER_BARS: &[&str] = &["pci-testdev-membar", "mailbox"];

/// The priority that PCI devices give to their BARs.
const BAR: i32 = 1;

/// Containers that look like a block of registers.
const WRAPPERS: &[&str] = &["virtio-pci"];

/// The priority that boards give to a placeholder for a device that QEMU lacks.
const UNIMPLEMENTED: i32 = -1000;

/// The largest block of device registers. Larger regions are buses.
const REGISTERS: u128 = 0x4_0000;

/// Returns whether a region that is not memory answers accesses itself. The
/// first rule that applies decides.
pub(crate) fn answers(shape: Shape<'_>) -> bool {
    let name = shape.name;
    // 1. Placeholders for missing devices log accesses.
    if shape.priority == UNIMPLEMENTED {
        return true;
    }
    let Some(first_child) = shape.first_child else {
        // 2. A region without children is a device's registers, unless its name
        //    is that of a container, or it is as large as a bus and regions of
        //    its kind have children.
        let wraps = !shape.placed && WRAPPERS.contains(&name);
        let bus = shape.resembles_parent && shape.size > REGISTERS;
        let bar = shape.priority == BAR && CONTAINER_BARS.contains(&name);
        return !(wraps
            || bus
            || bar
            || CONTAINERS.contains(&name)
            || says_container(name)
            || is_bus_space(name));
    };
    // 3. An IOMMU translates accesses outside its children.
    if name.ends_with("iommu") {
        return true;
    }
    // 4. By name: the few regions that no other rule recognizes.
    if ANSWERS.contains(&name) || ANSWERS_SUFFIX.iter().any(|end| name.ends_with(end)) {
        return true;
    }
    // 5. A block of registers whose first child is not at its start has
    //    registers of its own there. A bus has no parent, or is large. A
    //    wrapper has the name of the region that it wraps. Every other region
    //    with children only contains them.
    let wraps = shape.namesake || WRAPPERS.contains(&name);
    let bus = says_container(name) || is_bus_space(name);
    shape.placed && !wraps && !bus && first_child > 0 && shape.size <= REGISTERS
}

/// Returns the name without digits, which regions of one kind share.
pub(crate) fn kind(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Returns whether the last word of a name, without its number, is that of a
/// container.
fn says_container(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_lowercase());
    [
        "container",
        "-peripherals",
        "nubus-super-slot-",
        "tce-root-",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

/// Returns whether a name is that of the address space of a bus: `isa-mem`,
/// `pci_io`, `gpex_mmio`, `pci bus memory`, `sabre-pci-ioport`,
/// `pci_bridge_pci`. It names a bus, then has only words about buses, and ends
/// with the kind of space.
fn is_bus_space(name: &str) -> bool {
    let words: Vec<&str> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let Some((&last, before)) = words.split_last() else {
        return false;
    };
    let is_bus = |word: &&str| {
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
        matches!(stem, "pci" | "pcie" | "isa" | "gpex")
    };
    let Some(bus) = before.iter().position(is_bus) else {
        return name == "pci";
    };
    let between = &before[bus + 1..];
    let about_buses = |word: &&str| {
        matches!(*word, "bridge" | "bus" | "host") || word.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let space = matches!(
        last,
        "io" | "pio" | "ioport" | "mem" | "mmio" | "memory" | "fw" | "pci"
    );
    space && between.iter().all(about_buses)
}

/// Returns whether an alias that prints as `kind` drops writes.
pub(crate) fn readonly_alias(name: &str, kind: RegionType) -> bool {
    match name {
        // A PC's chipset shows RAM below 1 MiB through an alias of this name
        // where the guest has write-protected it.
        "pam-rom" => true,
        // A PC shows the end of its firmware below 1 MiB. It is read-only
        // unless the firmware is plain RAM.
        "isa-bios" => kind != RegionType::Ram,
        _ => false,
    }
}

/// Returns whether a region that prints as one byte is empty. Memory and
/// aliases consist of pages; only registers consist of bytes.
pub(crate) fn is_empty(size: u128, kind: RegionType, alias: bool) -> bool {
    size == 1 && (alias || kind.is_memory())
}

/// Returns a sort key; the sibling with the smallest key wins. Among siblings
/// of equal priority, the one added last wins. QEMU prints siblings by address,
/// and the winner first at the same address. At different addresses, the later
/// start wins: boards add backgrounds before the regions on top of them, and
/// neighbours in ascending order.
pub(crate) fn winner_first(priority: i32, address: u64) -> (i64, u128) {
    (
        -i64::from(priority),
        u128::from(u64::MAX) - u128::from(address),
    )
}

/// Returns whether a region of this name exists only if KVM runs the machine:
/// the in-kernel interrupt controllers of a PC. QEMU marks memory that has a
/// KVM slot.
pub(crate) fn only_under_kvm(name: &str) -> bool {
    name.starts_with("kvm-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bus_spaces_differ_from_names_of_devices() {
        for name in [
            "pci",
            "pci_io",
            "pci-mem",
            "pci0-mem",
            "isa-io",
            "isa-fw",
            "gpex_mmio",
            "gpex_ioport",
            "pci_bridge_pci",
            "pci_bridge_io",
            "pci bus memory",
            "pcie-bus-memory",
            "sabre-pci-ioport",
            "pci@800000020000000.mmio",
        ] {
            assert!(is_bus_space(name), "{name}");
        }
        for name in [
            "",
            "io",
            "virtio-pci",
            "pci-testdev-mmio",
            "pcie-mmcfg-mmio",
            "gpex_mmio_window",
            "pci-conf-idx",
            "unin-pci-isa-mmio",
            "ide-mmio.1",
            "ivshmem-mmio",
        ] {
            assert!(!is_bus_space(name), "{name}");
        }
    }
}
