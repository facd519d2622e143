// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a region is: its kind, its size, its name and the caller's handle.

use alloc::sync::Arc;
use core::fmt;

use guest_ranges::HostMemory;

use crate::backing::{Memory, PrivateMmio};

/// Names a region of one [`MemoryModel`](crate::MemoryModel).
///
/// An id is never reused for another region: once its region is removed, every
/// use of it is an error. So is its use with another model, unless 65 535 models
/// were made between the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId {
    pub(crate) index: u32,
    /// Of which model it is, and how many regions had this index there before.
    pub(crate) generation: u32,
}

impl RegionId {
    /// How many of the lower bits count the regions with the same index.
    pub(crate) const GENERATION_BITS: u32 = 16;
    /// Those bits.
    pub(crate) const GENERATIONS: u32 = (1 << Self::GENERATION_BITS) - 1;
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation & Self::GENERATIONS;
        write!(f, "region {}.{generation}", self.index)
    }
}

/// What a region is made of and how its bytes answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Holds other regions. Where no child lies, whatever is below shows.
    Container,
    /// Claims addresses: every access is a decode error.
    Reservation,
    /// Every access traps to the VMM. Children lie on top of it.
    Mmio,
    /// Memory that the guest reads and writes directly.
    Ram(Memory),
    /// Memory that the guest reads directly; writes are dropped.
    Rom(Memory),
    /// Memory that the guest reads directly while direct reads are on; writes
    /// trap always, and reads too while they are off (a flash chip).
    RomDevice(Memory),
    /// A device's memory that the host has mapped (a shared VFIO BAR): the
    /// guest reaches it directly, the host accesses it with the device's own
    /// access sizes.
    DeviceRam(HostMemory),
    /// Device registers that only the guest may touch. Not RAM: there is no
    /// host address.
    PrivateMmio(PrivateMmio),
    /// A window onto another region, from `offset` bytes into it on. Children
    /// of an alias are never seen.
    Alias {
        /// The region that the window shows.
        target: RegionId,
        /// How far into the target the window starts, in bytes.
        offset: u64,
    },
}

impl Kind {
    /// Whether a region of this kind answers accesses itself, rather than only
    /// through what lies in it or behind it.
    #[inline]
    pub(crate) fn terminates(&self) -> bool {
        !matches!(self, Kind::Container | Kind::Alias { .. })
    }

    /// The kind in one or two words, as listings print it.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Reservation => "reserved",
            Kind::Mmio => "mmio",
            Kind::Ram(_) => "ram",
            Kind::Rom(_) => "rom",
            Kind::RomDevice(_) => "rom device",
            Kind::DeviceRam(_) => "device ram",
            Kind::PrivateMmio(_) => "private mmio",
            Kind::Alias { .. } => "alias",
        }
    }
}

/// What can be switched on a region while the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: callers write `Switches { readonly: true, ..Switches::default() }`.
pub struct Switches {
    /// Off: the region and all that is in it are gone from every view.
    pub enabled: bool,
    /// No guest write reaches the memory of this region or of any inside it.
    pub readonly: bool,
    /// The contents survive a power cycle; inherited.
    pub nonvolatile: bool,
    /// Never joined with a neighbour in a flat view; inherited.
    pub unmergeable: bool,
    /// For a [`Kind::RomDevice`]: reads are direct. Without effect on others.
    pub direct_reads: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            enabled: true,
            readonly: false,
            nonvolatile: false,
            unmergeable: false,
            direct_reads: true,
        }
    }
}

/// A region's description: what it is, and what the caller wants back from a
/// lookup. Built by one of the constructors, then handed to
/// [`Transaction::add`](crate::Transaction::add).
#[derive(Clone, Debug)]
pub struct Region<H = ()> {
    name: Arc<str>,
    kind: Kind,
    size: u128,
    pub(crate) switches: Switches,
    handle: H,
}

impl Region<()> {
    fn new(name: &str, kind: Kind, size: u128) -> Self {
        Self {
            name: name.into(),
            kind,
            size,
            switches: Switches::default(),
            handle: (),
        }
    }

    /// A container of `size` bytes, 1 to 2^64.
    pub fn container(name: &str, size: u128) -> Self {
        Self::new(name, Kind::Container, size)
    }

    /// A reservation of `size` bytes, 1 to 2^64.
    pub fn reservation(name: &str, size: u128) -> Self {
        Self::new(name, Kind::Reservation, size)
    }

    /// A trapped region of `size` bytes, 1 to 2^64.
    pub fn mmio(name: &str, size: u128) -> Self {
        Self::new(name, Kind::Mmio, size)
    }

    /// RAM, as large as its memory.
    pub fn ram(name: &str, memory: Memory) -> Self {
        let size = memory.size().into();
        Self::new(name, Kind::Ram(memory), size)
    }

    /// ROM, as large as its memory.
    pub fn rom(name: &str, memory: Memory) -> Self {
        let size = memory.size().into();
        Self::new(name, Kind::Rom(memory), size)
    }

    /// A ROM device, as large as its memory, with direct reads on.
    pub fn rom_device(name: &str, memory: Memory) -> Self {
        let size = memory.size().into();
        Self::new(name, Kind::RomDevice(memory), size)
    }

    /// Device RAM, as large as its mapping.
    pub fn device_ram(name: &str, mapping: HostMemory) -> Self {
        let size = mapping.size().into();
        Self::new(name, Kind::DeviceRam(mapping), size)
    }

    /// Private MMIO, as large as its slice of the device's file.
    pub fn private_mmio(name: &str, registers: PrivateMmio) -> Self {
        let size = registers.size().into();
        Self::new(name, Kind::PrivateMmio(registers), size)
    }

    /// A window of `size` bytes onto `target` from `offset` on. It may reach
    /// past the target's end; nothing is seen there.
    pub fn alias(name: &str, target: RegionId, offset: u64, size: u128) -> Self {
        Self::new(name, Kind::Alias { target, offset }, size)
    }
}

impl<H> Region<H> {
    /// The same region with the caller's own handle, which every lookup in it
    /// returns.
    pub fn with_handle<T>(self, handle: T) -> Region<T> {
        Region {
            name: self.name,
            kind: self.kind,
            size: self.size,
            switches: self.switches,
            handle,
        }
    }

    /// The same region with other switches to start with.
    #[must_use]
    pub fn with_switches(self, switches: Switches) -> Self {
        Self { switches, ..self }
    }

    /// The name. Names are for people: they need not be unique.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the region is made of.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The number of bytes: 1 to 2^64 for a region that is part of a model.
    pub fn size(&self) -> u128 {
        self.size
    }

    /// The caller's handle.
    pub fn handle(&self) -> &H {
        &self.handle
    }
}

/// How the guest's own loads and stores are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a listener has to decide how to map each of them.
pub enum GuestAccess {
    /// Loads and stores reach the bytes without the VMM.
    ReadWrite,
    /// Loads reach the bytes; stores come to the VMM, which drops them.
    ReadOnly,
    /// Loads reach the bytes; stores come to the VMM, which acts on them.
    ReadTrapWrite,
    /// Loads and stores come to the VMM.
    Trap,
}

impl GuestAccess {
    /// Whether loads reach the bytes without the VMM.
    pub fn reads_directly(self) -> bool {
        self != Self::Trap
    }

    /// Whether stores reach the bytes without the VMM.
    pub fn writes_directly(self) -> bool {
        self == Self::ReadWrite
    }

    /// The access of a region of `kind` under `switches` that include what it
    /// inherited; `None` for kinds that do not answer themselves.
    #[inline]
    pub(crate) fn of(kind: &Kind, switches: Switches) -> Option<Self> {
        let memory = match switches.readonly {
            true => Self::ReadOnly,
            false => Self::ReadWrite,
        };
        match kind {
            Kind::Container | Kind::Alias { .. } => None,
            Kind::Reservation | Kind::Mmio => Some(Self::Trap),
            Kind::Ram(_) | Kind::DeviceRam(_) | Kind::PrivateMmio(_) => Some(memory),
            Kind::Rom(_) => Some(Self::ReadOnly),
            Kind::RomDevice(_) if switches.direct_reads => Some(Self::ReadTrapWrite),
            Kind::RomDevice(_) => Some(Self::Trap),
        }
    }
}

impl fmt::Display for GuestAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadWrite => "direct rw",
            Self::ReadOnly => "direct ro",
            Self::ReadTrapWrite => "direct r, trap w",
            Self::Trap => "trap",
        })
    }
}
