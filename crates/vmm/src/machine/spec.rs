// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine is: plain data.

use memory_model::AddrRange;
use vfio_private::BarIndex;
use vfio_private::device::PciAddress;

use super::action::{Action, ActionKind};

/// A machine and its guest's script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What the machine is called.
    pub name: String,
    /// The regions, parents before their children and targets before their
    /// aliases. The first is the root.
    pub regions: Vec<Region>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What the VMM does where the guest takes a page for what it is not.
    pub on_memory_fault: OnMemoryFault,
}

/// What the VMM does at a memory fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMemoryFault {
    /// The access ends there, and that is what is seen of it.
    #[default]
    Report,
    /// The pages become what the guest takes them for, if they can, and the
    /// guest tries again: what it then comes to is what is seen.
    Convert,
}

/// A region of the machine. Others name it by its index in
/// [`Machine::regions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name, unique in the machine.
    pub name: String,
    /// Where it lies; `None` for the root, and for targets of aliases that
    /// lie nowhere themselves.
    pub place: Option<Place>,
    /// The number of bytes, 1 to 2^64.
    pub size: u128,
    /// What it is.
    pub kind: Kind,
    /// Whether it is there to begin with.
    pub enabled: bool,
    /// Whether guest writes to memory in it are dropped.
    pub readonly: bool,
    /// What its bytes hold to begin with, where that is not zero.
    pub init: Vec<Init>,
}

/// Where a region lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which region.
    pub parent: usize,
    /// At which offset in it.
    pub at: u64,
    /// Which of overlapping siblings wins: the highest.
    pub priority: i32,
}

/// What a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds other regions.
    Container,
    /// Claims addresses that answer nothing.
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
    /// A device's registers that only the guest can touch.
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

/// What RAM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Memory of the VMM.
    Host,
    /// A guest_memfd that the VMM has mapped.
    GuestMemfd,
    /// Memory of the VMM for shared pages, a guest_memfd for private ones.
    Private,
}

/// The devices that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Identification, inverter and factorial registers.
    Edu,
    /// Registers that hold what is written.
    Registers,
    /// Counts how often it was read.
    Counter,
}

/// What is known of a BAR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// Which device's BAR it is; `None` for one that memory stands for.
    pub assigned: Option<AssignedBar>,
    /// Whether the VMM maps nothing of it, as if VFIO allowed no mapping.
    pub unmapped: bool,
    /// Offset and size of the MSI-X table.
    pub msix_table: Option<(u64, u64)>,
    /// Offset and size of the MSI-X pending bits.
    pub msix_pba: Option<(u64, u64)>,
    /// The ranges that only the guest may touch (offset, size).
    pub private: Vec<(u64, u64)>,
    /// The ranges that the host may touch too (offset, size).
    pub shared: Vec<(u64, u64)>,
}

/// A BAR of a real device, which VFIO has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedBar {
    /// The device.
    pub device: DeviceName,
    /// The number of the BAR.
    pub bar: BarIndex,
}

/// How a machine file calls a real device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// By its address: `0000:01:00.0`.
    At(PciAddress),
    /// The first of this vendor and type that vfio-pci has: `1234:11e8`.
    Model {
        /// The vendor's ID.
        vendor: u16,
        /// The device's ID.
        device: u16,
    },
}

/// A value in memory to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// Offset in the region.
    pub at: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// The value, little-endian.
    pub value: u64,
}

/// One step of the script, with what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest loads or stores.
    Guest(Access),
    /// The VMM does something while the guest runs.
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
    /// Whether the guest's page table says that its pages are private. `None`
    /// for an access that takes every page for what it is.
    pub private: Option<bool>,
    /// How it is expected to be resolved.
    pub how: How,
    /// How often the guest tries until it reads what is expected: of a device
    /// that takes its time. At least once.
    pub tries: u32,
}

/// Load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A load that is expected to give this value; any value if none is said,
    /// which only a load that fails can do.
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
    /// By a memory fault: the page is private and the memory is not, or the
    /// other way round; or the page is not what the guest takes it for.
    MemoryFault,
    /// Not at all.
    Error,
}

impl How {
    /// The word that machine files and reports use.
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

    /// What the VMM reads and writes by its host address.
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

    /// The real devices' BARs that the machine has.
    pub fn assigned(&self) -> impl Iterator<Item = AssignedBar> {
        self.regions.iter().filter_map(|region| match &region.kind {
            Kind::Bar(bar) => bar.assigned,
            _ => None,
        })
    }

    /// Whether some page can be private, which takes a VM of another type.
    pub fn has_private_pages(&self) -> bool {
        let mut kinds = self.regions.iter().map(|region| &region.kind);
        kinds.any(|kind| match kind {
            Kind::Ram(backing) => *backing == Backing::Private,
            Kind::Bar(bar) => bar.assigned.is_some() && !bar.private.is_empty(),
            _ => false,
        })
    }
}
