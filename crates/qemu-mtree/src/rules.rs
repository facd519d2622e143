// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the text does not say, and what is assumed instead.
//!
//! Five facts that decide a flat view are not in `info mtree`: whether a
//! region that is not memory answers accesses or only holds others; whether an
//! alias is read-only; which of two overlapping siblings of equal priority was
//! added last; whether a region has 0 bytes or 1; and whether KVM runs the
//! machine. Each is guessed here by rules about the *shape* of a region where
//! there is one, and else by the name that a device model gives it. No rule
//! knows a machine.

use crate::region_type::RegionType;

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: u128,
    pub(crate) priority: i32,
    /// Whether it lies in another region.
    pub(crate) placed: bool,
    /// Where the first child starts; `None` if there is no child.
    pub(crate) first_child: Option<u64>,
    /// Whether a child has the region's own name.
    pub(crate) namesake: bool,
    /// Whether other regions lie in one whose name differs in its digits only.
    pub(crate) like_a_parent: bool,
}

/// Answers accesses, though other regions lie in it at its very start.
const ANSWERS: &[&str] = &[
    // Port spaces: a port without a device reads as ones.
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
    // Boards and chips that log accesses to what is not there.
    "xtfpga.io",
    "cfam",
    "aspeed.smc.flash",
    "xlnx.versal-canfd",
    // Windows of a host bridge to several PCI buses.
    "LMMIO",
    "GMMIO",
    "ram",
];

/// The same, for the ends of names.
const ANSWERS_SUFFIX: &[&str] = &[
    // The background that PCI host bridges put behind their windows.
    "_window",
    "pci-isa-mmio",
];

/// Only holds others, even while there are none.
const HOLDS: &[&str] = &[
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

/// The same, where a PCI device has it as a BAR; other devices have registers
/// of such names.
const BARS_HOLD: &[&str] = &["pci-testdev-membar", "mailbox"];

/// The priority that PCI devices give to their BARs.
const BAR: i32 = 1;

/// Only holds others, though it looks like a block of registers.
const WRAPS: &[&str] = &["virtio-pci"];

/// The priority that boards give to a stand-in for a device that QEMU lacks.
const UNIMPLEMENTED: i32 = -1000;

/// The largest block of a device's registers; whatever is larger is a bus.
const REGISTERS: u128 = 0x4_0000;

/// Whether a region that is not memory answers accesses itself. The first
/// rule that fits decides.
pub(crate) fn answers(shape: Shape<'_>) -> bool {
    let name = shape.name;
    // 1. Stand-ins for missing devices log what they are asked.
    if shape.priority == UNIMPLEMENTED {
        return true;
    }
    let Some(first_child) = shape.first_child else {
        // 2. What nothing lies in is a device's registers, unless its name
        //    says that it is a place for others.
        //    Nor is it if it is as large as a bus and others of its kind are
        //    places for others.
        let wraps = !shape.placed && WRAPS.contains(&name);
        let bus = shape.like_a_parent && shape.size > REGISTERS;
        let bar = shape.priority == BAR && BARS_HOLD.contains(&name);
        return !(wraps
            || bus
            || bar
            || HOLDS.contains(&name)
            || says_container(name)
            || is_bus_space(name));
    };
    // 3. An IOMMU translates whatever is not in the regions that lie in it.
    if name.ends_with("iommu") {
        return true;
    }
    // 4. By name: the few that no other rule tells apart.
    if ANSWERS.contains(&name) || ANSWERS_SUFFIX.iter().any(|end| name.ends_with(end)) {
        return true;
    }
    // 5. A block of registers with others in it, but not at its start, has
    //    registers of its own there. A bus lies in no other region, or is
    //    large; and whoever wraps a region calls it what the region is called.
    //    Everything else that others lie in only holds them.
    let wraps = shape.namesake || WRAPS.contains(&name);
    let bus = says_container(name) || is_bus_space(name);
    shape.placed && !wraps && !bus && first_child > 0 && shape.size <= REGISTERS
}

/// What regions of one kind share: the name without digits.
pub(crate) fn kind(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Whether the last word of a name, without its number, is a container's.
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

/// Whether a name reads as the address space of a bus: `isa-mem`, `pci_io`,
/// `gpex_mmio`, `pci bus memory`, `sabre-pci-ioport`, `pci_bridge_pci`. A bus,
/// nothing but words about buses, and then what kind of space it is.
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

/// Whether an alias that prints as `kind` lets no write through.
pub(crate) fn readonly_alias(name: &str, kind: RegionType) -> bool {
    match name {
        // A PC's chipset shows the RAM below 1 MiB through an alias of this
        // name where the guest has write-protected it.
        "pam-rom" => true,
        // A PC shows the end of its firmware below 1 MiB, read-only unless
        // the firmware is plain RAM.
        "isa-bios" => kind != RegionType::Ram,
        _ => false,
    }
}

/// Whether a region that prints one byte has none. Memory and windows onto
/// other regions come in pages; only registers come in bytes.
pub(crate) fn is_empty(size: u128, kind: RegionType, alias: bool) -> bool {
    size == 1 && (alias || kind.is_memory())
}

/// Among siblings of equal priority the latest added wins, and QEMU prints
/// them by address, the winner first at the same address. Between different
/// addresses the later start wins: boards lay out backgrounds before what lies
/// in them, and neighbours upwards. The smallest key wins.
pub(crate) fn winner_first(priority: i32, address: u64) -> (i64, u128) {
    (
        -i64::from(priority),
        u128::from(u64::MAX) - u128::from(address),
    )
}

/// Whether a region of this name is there only while KVM runs the machine: the
/// in-kernel interrupt controllers of a PC. QEMU marks memory that KVM has a
/// slot for.
pub(crate) fn only_under_kvm(name: &str) -> bool {
    name.starts_with("kvm-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bus_spaces_are_told_from_those_of_devices() {
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
