// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty logging: the clients that want to know which memory was written, and the
//! memory that cannot be logged.

use alloc::vec::Vec;
use core::fmt;
use core::ops::{BitAnd, BitOr, Sub};

use crate::region::Kind;

/// A set of clients for which writes to memory are logged.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DirtyClients(u8);

impl DirtyClients {
    /// No client.
    pub const NONE: Self = Self(0);
    /// A display, which redraws only what was written.
    pub const VGA: Self = Self(1 << 0);
    /// A code translator, which discards the translations of what was written.
    pub const CODE: Self = Self(1 << 1);
    /// A migration, which sends again what was written since it was sent.
    pub const MIGRATION: Self = Self(1 << 2);

    const NAMES: [(Self, &'static str); 3] = [
        (Self::VGA, "VGA"),
        (Self::CODE, "CODE"),
        (Self::MIGRATION, "MIGRATION"),
    ];

    #[cfg(feature = "serde")]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// The clients of these bits, or the bits that are no client.
    #[cfg(feature = "serde")]
    pub(crate) fn from_bits(bits: u8) -> Result<Self, u8> {
        let known = Self::NAMES.iter().fold(0, |all, (one, _)| all | one.0);
        match bits & !known {
            0 => Ok(Self(bits)),
            unknown => Err(unknown),
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Whether all of `others` are in the set.
    pub fn contains(self, others: Self) -> bool {
        self & others == others
    }
}

/// The clients in either set.
impl BitOr for DirtyClients {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The clients in both sets.
impl BitAnd for DirtyClients {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The clients in the first set only.
impl Sub for DirtyClients {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for DirtyClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(one, _)| self.contains(*one));
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        match names[..] {
            [] => f.write_str("NONE"),
            _ => f.write_str(&names.join(" | ")),
        }
    }
}

/// The clients for which all memory is logged, before a change and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalLogging {
    /// The clients before the change.
    pub before: DirtyClients,
    /// The clients after the change.
    pub after: DirtyClients,
}

impl GlobalLogging {
    /// Whether they differ.
    pub fn changes(self) -> bool {
        self.before != self.after
    }
}

/// Why the writes to a region cannot be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unloggable {
    /// The region has no memory of its own. Its device, or the region that it shows,
    /// sees every write.
    #[error("it has no memory of its own")]
    NoMemory,
    /// The device writes its memory itself, and no log includes these writes.
    #[error("its device writes the memory too")]
    DeviceRam,
    /// Only the guest reaches the registers, so no client could read them.
    #[error("no host address reaches it")]
    PrivateMmio,
    /// The guest reaches its pages through a guest_memfd, not through the host
    /// mapping on which a log is kept.
    #[error("its pages are in a guest_memfd")]
    GuestMemfd,
}

impl Unloggable {
    /// Why writes to a region of `kind` cannot be logged; `None` if they can.
    #[inline]
    pub fn of(kind: &Kind) -> Option<Self> {
        match kind {
            Kind::Ram(memory) | Kind::Rom(memory) | Kind::RomDevice(memory) => {
                memory.guest_memfd().map(|_| Self::GuestMemfd)
            }
            Kind::DeviceRam(_) => Some(Self::DeviceRam),
            Kind::PrivateMmio(_) => Some(Self::PrivateMmio),
            Kind::Container | Kind::Reservation | Kind::Mmio | Kind::Alias { .. } => {
                Some(Self::NoMemory)
            }
        }
    }

    /// Whether a client that wants all writes misses some.
    pub(crate) fn loses_writes(self) -> bool {
        self != Self::NoMemory
    }
}
