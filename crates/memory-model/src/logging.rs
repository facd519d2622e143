// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who wants to know which memory was written, and where nobody can.

use alloc::vec::Vec;
use core::fmt;
use core::ops::{BitAnd, BitOr, Sub};

use crate::error::TreeError;
use crate::region::{Kind, RegionId};
use crate::transaction::Transaction;
use crate::transaction::undo::Undo;
use crate::view::{FlatRange, FlatView};

/// A set of clients, each with a purpose for which it has the writes to memory
/// logged.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DirtyClients(u8);

impl DirtyClients {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// A display, to draw only what was written.
    pub const VGA: Self = Self(1 << 0);
    /// Translated code, to throw away what was translated from what is written.
    pub const CODE: Self = Self(1 << 1);
    /// A migration, to send again what was written since it was sent.
    pub const MIGRATION: Self = Self(1 << 2);

    const NAMES: [(Self, &'static str); 3] = [
        (Self::VGA, "VGA"),
        (Self::CODE, "CODE"),
        (Self::MIGRATION, "MIGRATION"),
    ];

    /// Whether it is nobody.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Whether all of `others` are among them.
    pub fn contains(self, others: Self) -> bool {
        self & others == others
    }
}

/// Those who are in one of the sets.
impl BitOr for DirtyClients {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Those who are in both sets.
impl BitAnd for DirtyClients {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Those who are in the first set only.
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

/// The clients that have all memory logged, before a change and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalLogging {
    /// Before the change.
    pub before: DirtyClients,
    /// After it.
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
    /// It has no memory of its own: nothing is written that its device, or
    /// the region that it shows, does not know of.
    #[error("it has no memory of its own")]
    NoMemory,
    /// The device changes its memory itself, and no log has that.
    #[error("its device writes the memory too")]
    DeviceRam,
    /// Only the guest reaches the registers; nobody else could read them.
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

    /// Whether something is lost on whoever wants all that was written.
    fn loses_writes(self) -> bool {
        self != Self::NoMemory
    }
}

impl<H> FlatRange<H> {
    /// Why a log of all that is written lacks what is written here; `None`
    /// where it lacks nothing: the writes can be logged, or come to the VMM.
    pub fn unloggable(&self) -> Option<Unloggable> {
        Unloggable::of(self.region().kind()).filter(|why| why.loses_writes())
    }
}

impl<H> FlatView<H> {
    /// The runs that a log of all that is written lacks, and why. It looks at
    /// every run.
    pub fn unloggable(&self) -> impl Iterator<Item = (&FlatRange<H>, Unloggable)> {
        self.ranges()
            .filter_map(|run| Some((run, run.unloggable()?)))
    }
}

impl<H> Transaction<'_, H> {
    /// Has the writes to a region's memory logged for `clients`, wherever it
    /// shows, and no longer for those that are not among them. Listeners see
    /// runs that answer differently.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotLoggable`].
    pub fn set_dirty_logging(
        &mut self,
        id: RegionId,
        clients: DirtyClients,
    ) -> Result<(), TreeError> {
        let before = self.model.tree.set_logging(id, clients)?;
        if before != clients {
            self.model.undo.push(Undo::Logging(id, before));
            self.windows.add_region(&self.model.tree, id);
        }
        Ok(())
    }

    /// Has the writes to all memory logged for `clients`, beside those that
    /// single regions are logged for.
    ///
    /// Every listener of every space is told. What cannot be logged does not
    /// stand in the way: [`FlatView::unloggable`] lists it.
    ///
    /// The commit renders every space anew, unless it finds that they are the
    /// same clients as before the transaction: then it costs nothing.
    pub fn set_global_dirty_logging(&mut self, clients: DirtyClients) {
        let before = self.model.tree.set_global_logging(clients);
        if before != clients {
            self.model.undo.push(Undo::GlobalLogging(before));
        }
    }
}
