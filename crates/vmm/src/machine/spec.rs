// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The types of a machine: plain data.

use memory_model::AddrRange;
use vfio_private::BarIndex;
use vfio_private::device::PciAddress;

use super::action::{Action, ActionKind};

/// A machine and its guest's script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The machine's name.
    pub name: String,
    /// The regions, parents before their children and targets before their
    /// aliases. The first is the root.
    pub regions: Vec<Region>,
    /// The steps of the script, in order.
    pub steps: Vec<Step>,
    /// What the VMM does at a memory fault.
    pub on_memory_fault: OnMemoryFault,
    /// Whether the VM has no private pages although the machine's devices have private
    /// ranges. Its guest reaches them without accepting them first.
    pub plain_vm: bool,
}

/// What the VMM does at a memory fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMemoryFault {
    /// The access ends with the fault, which the script sees.
    #[default]
    Report,
    /// The VMM converts the pages to the state that the guest expects, if it can, and
    /// the guest retries. The script sees the retried access.
    Convert,
}

/// A region of the machine. Others name it by its index in
/// [`Machine::regions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name, unique in the machine.
    pub name: String,
    /// Its place; `None` for the root, and for targets of aliases that are not placed
    /// themselves.
    pub place: Option<Place>,
    /// The number of bytes, 1 to 2^64.
    pub size: u128,
    /// What it is.
    pub kind: Kind,
    /// Whether it is enabled initially.
    pub enabled: bool,
    /// Whether guest writes to memory in it are dropped.
    pub readonly: bool,
    /// Its initial values that are not zero.
    pub init: Vec<Init>,
}

/// The place of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The region that it is in.
    pub parent: usize,
    /// The offset in that region.
    pub at: u64,
    /// The priority: the highest of overlapping siblings wins.
    pub priority: i32,
}

/// What a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds other regions.
    Container,
    /// Reserves addresses: nothing answers there.
    Reserved,
    /// Trapped: a device answers.
    Mmio(DeviceKind),
    /// Memory.
    Ram(Backing),
    /// Memory that the guest cannot write.
    Rom,
    /// A flash chip: memory that is read directly while the chip is in array
    /// mode.
    RomDevice,
    /// A device's memory, mapped in the host.
    DeviceRam,
    /// A device's registers that only the guest can access.
    PrivateMmio,
    /// A window onto another region.
    Alias {
        /// The other region.
        target: usize,
        /// How far into it the window starts.
        offset: u64,
    },
    /// A BAR of an assigned device, cut into private, shared and trapped
    /// pieces by `vfio-private`.
    Bar(Bar),
}

/// The backing of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Memory of the VMM.
    Host,
    /// A guest_memfd, which the VMM maps.
    GuestMemfd,
    /// Memory of the VMM for shared pages, a guest_memfd for private ones.
    Private,
}

/// The kinds of emulated devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Identification, inverter and factorial registers.
    Edu,
    /// Registers that hold the written value.
    Registers,
    /// Counts how often it was read.
    Counter,
}

/// A BAR as the machine file describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// The real BAR; `None` if memory takes its place.
    pub assigned: Option<AssignedBar>,
    /// The TEE device interface that the BAR belongs to, if any.
    pub tdi: Option<TdiBar>,
    /// Whether the VMM maps none of it, as if VFIO did not allow a mapping.
    pub unmapped: bool,
    /// Offset and size of the MSI-X table.
    pub msix_table: Option<(u64, u64)>,
    /// Offset and size of the MSI-X pending bits.
    pub msix_pba: Option<(u64, u64)>,
    /// The ranges that only the guest may access (offset, size).
    pub private: Vec<(u64, u64)>,
    /// The ranges that the host may access too (offset, size).
    pub shared: Vec<(u64, u64)>,
}

/// A BAR of a real device that is bound to VFIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedBar {
    /// The device.
    pub device: DeviceName,
    /// The number of the BAR.
    pub bar: BarIndex,
}

/// A BAR of a TEE device interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdiBar {
    /// The name of the interface. BARs with the same name belong together.
    pub name: String,
    /// The number of the BAR.
    pub bar: BarIndex,
}

/// The name of a real device in a machine file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// By its address: `0000:01:00.0`.
    At(PciAddress),
    /// The first of this vendor and type that is bound to vfio-pci: `1234:11e8`.
    Model {
        /// The vendor's ID.
        vendor: u16,
        /// The device's ID.
        device: u16,
    },
}

/// An initial value in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// Offset in the region.
    pub at: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// The value, little-endian.
    pub value: u64,
}

/// One step of the script, with its expected result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest loads or stores.
    Guest(Access),
    /// The VMM performs an action while the guest runs.
    Vmm(Action),
}

/// A load or store of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The guest-physical address.
    pub gpa: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// What it does.
    pub kind: AccessKind,
    /// The private bit in the guest's page table. `None` for an access that matches
    /// the state of every page.
    pub private: Option<bool>,
    /// How it is expected to be resolved.
    pub how: How,
    /// How often the guest tries until it reads the expected value, at least once: a
    /// device may take its time.
    pub tries: u32,
}

impl Access {
    /// The guest-physical address of the last byte.
    pub fn last(&self) -> u64 {
        self.gpa.saturating_add(self.size as u64 - 1)
    }
}

/// Load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A load that is expected to return this value. Only a load that is expected to
    /// fail has none.
    Read(Option<u64>),
    /// A store of this value.
    Write(u64),
}

/// How an access was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Without the VMM.
    Direct,
    /// By an exit that the VMM answered.
    Mmio,
    /// By an exit on a store to ROM, which the VMM dropped.
    RomWrite,
    /// By a memory fault: the page is private and the memory is not, or the other way
    /// round, or the page does not match the private bit of the access.
    MemoryFault,
    /// Not at all.
    Error,
}

impl How {
    /// Its word in machine files and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mmio => "mmio",
            Self::RomWrite => "rom-write",
            Self::MemoryFault => "memory-fault",
            Self::Error => "error",
        }
    }
}

impl Machine {
    /// The guest's own accesses, in order.
    pub fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.steps.iter().filter_map(|step| match step {
            Step::Guest(access) => Some(access),
            Step::Vmm(_) => None,
        })
    }

    /// The memory that the VMM accesses through its host address.
    pub fn host_accesses(&self) -> impl Iterator<Item = AddrRange> {
        self.steps.iter().filter_map(|step| match step {
            Step::Guest(_) => None,
            Step::Vmm(action) => match action.what {
                ActionKind::HostRead { gpa, size, .. }
                | ActionKind::HostWrite { gpa, size, .. } => AddrRange::new(gpa, size as u128),
                _ => None,
            },
        })
    }

    /// The BARs of real devices in the machine.
    pub fn assigned(&self) -> impl Iterator<Item = AssignedBar> {
        self.regions.iter().filter_map(|region| match &region.kind {
            Kind::Bar(bar) => bar.assigned,
            _ => None,
        })
    }

    /// The BARs of TEE device interfaces: each with the number of its region.
    pub fn tdi_bars(&self) -> impl Iterator<Item = (usize, &TdiBar)> {
        let regions = self.regions.iter().enumerate();
        regions.filter_map(|(number, region)| match &region.kind {
            Kind::Bar(bar) => bar.tdi.as_ref().map(|tdi| (number, tdi)),
            _ => None,
        })
    }

    /// Whether some page can be private, which needs a VM of another type.
    pub fn has_private_pages(&self) -> bool {
        let mut kinds = self.regions.iter().map(|region| &region.kind);
        !self.plain_vm
            && kinds.any(|kind| match kind {
                Kind::Ram(backing) => *backing == Backing::Private,
                Kind::Bar(bar) => bar.assigned.is_some() && !bar.private.is_empty(),
                _ => false,
            })
    }
}
