// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Regions: kind, size, name, switches and the caller's handle.

use alloc::sync::Arc;
use core::fmt;

use guest_ranges::HostMemory;

use crate::backing::{Memory, PrivateMmio};
use crate::ids::RegionId;

/// The kind of a region: its backing, and how its bytes answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Contains other regions. Where no child lies, it is transparent.
    Container,
    /// Reserves addresses. Every access is a decode error.
    Reservation,
    /// Traps every access to the VMM. Children lie on top of it.
    Mmio,
    /// Memory that the guest reads and writes directly.
    Ram(Memory),
    /// Memory that the guest reads directly. Writes are dropped.
    Rom(Memory),
    /// Memory such as a flash chip. Writes always trap. Reads are direct while
    /// [`Switches::direct_reads`] is on, and trap otherwise.
    RomDevice(Memory),
    /// A device's memory that the host has mapped, such as a shared VFIO BAR. The
    /// guest reaches it directly. The host accesses it with the device's own access
    /// sizes.
    DeviceRam(HostMemory),
    /// Device registers that only the guest may access. They have no host address.
    PrivateMmio(PrivateMmio),
    /// A window onto another region, starting at `offset` in it. Children of an
    /// alias never show.
    Alias {
        /// The region that the window shows.
        target: RegionId,
        /// The offset in the target at which the window starts, in bytes.
        offset: u64,
    },
}

impl Kind {
    /// Whether a region of this kind answers accesses itself, not only through its
    /// children or its target.
    #[inline]
    pub(crate) fn terminates(&self) -> bool {
        !matches!(self, Kind::Container | Kind::Alias { .. })
    }

    /// The kind in one or two words, for listings.
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

/// The switches of a region, which can change while the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
// Exhaustive: callers write `Switches { readonly: true, ..Switches::default() }`.
pub struct Switches {
    /// Whether the region shows. If not, no view shows it or anything in it.
    pub enabled: bool,
    /// Whether guest writes are kept from the memory of this region and of all
    /// regions in it.
    pub readonly: bool,
    /// Whether the contents survive a power cycle. Inherited.
    pub nonvolatile: bool,
    /// Whether runs are never joined with a neighbour in a flat view. Inherited.
    pub unmergeable: bool,
    /// Whether reads of a [`Kind::RomDevice`] are direct. Other kinds ignore it.
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

/// The description of a region, with the handle that lookups return. Build it with
/// one of the constructors and pass it to
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

    /// A window of `size` bytes onto `target`, starting at `offset`. It may reach
    /// past the target's end, where it shows nothing.
    pub fn alias(name: &str, target: RegionId, offset: u64, size: u128) -> Self {
        Self::new(name, Kind::Alias { target, offset }, size)
    }
}

impl<H> Region<H> {
    /// The same region with the caller's handle, which every lookup returns.
    pub fn with_handle<T>(self, handle: T) -> Region<T> {
        Region {
            name: self.name,
            kind: self.kind,
            size: self.size,
            switches: self.switches,
            handle,
        }
    }

    /// The same region on other memory, if it is memory of that size.
    pub(crate) fn on(&self, memory: Memory) -> Option<Self>
    where
        H: Clone,
    {
        let kind = match &self.kind {
            Kind::Ram(_) => Kind::Ram,
            Kind::Rom(_) => Kind::Rom,
            Kind::RomDevice(_) => Kind::RomDevice,
            _ => return None,
        };
        let same = self.size == u128::from(memory.size());
        same.then(|| Self {
            kind: kind(memory),
            ..self.clone()
        })
    }

    /// The same region with other initial switches.
    #[must_use]
    pub fn with_switches(self, switches: Switches) -> Self {
        Self { switches, ..self }
    }

    /// The name, for messages. It need not be unique.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The size in bytes: 1 to 2^64 for a region that is part of a model.
    pub fn size(&self) -> u128 {
        self.size
    }

    /// The caller's handle.
    pub fn handle(&self) -> &H {
        &self.handle
    }
}

/// What the guest's loads and stores do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a listener has to decide how to map each of them.
pub enum GuestAccess {
    /// Loads and stores reach the bytes without the VMM.
    ReadWrite,
    /// Loads reach the bytes. Stores exit to the VMM, which drops them.
    ReadOnly,
    /// Loads reach the bytes. Stores exit to the VMM, which carries them out.
    ReadTrapWrite,
    /// Loads and stores exit to the VMM.
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

    /// The access of a region of `kind` with `switches`, which include what it
    /// inherits. `None` for kinds that do not answer themselves.
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
