// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A run of a flat view: the addresses that one region answers, how it answers, and
//! the bytes behind it.

use alloc::sync::Arc;

use guest_ranges::{AddrRange, HostMemory};
use smallvec::SmallVec;

use crate::backing::{Memory, PrivateMmio};
use crate::ids::RegionId;
use crate::logging::{DirtyClients, Unloggable};
use crate::region::{GuestAccess, Kind, Region, Switches};

/// A run: addresses that one region answers, with the same attributes throughout.
#[derive(Debug)]
pub struct FlatRange<H> {
    pub(crate) range: AddrRange,
    pub(crate) id: RegionId,
    pub(crate) region: Arc<Region<H>>,
    pub(crate) offset: u64,
    pub(crate) attributes: Attributes,
}

/// How a run of addresses answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attributes {
    /// What the guest's loads and stores do.
    pub access: GuestAccess,
    /// Whether [`Switches::readonly`] is set on the region, or on one around it.
    ///
    /// Use `access` to find out what a guest's store does. The access of a ROM is
    /// read-only without this switch, and a trapped region can have the switch on.
    pub readonly: bool,
    /// Whether the contents survive a power cycle.
    pub nonvolatile: bool,
    /// Whether the run stays apart from its neighbours.
    pub unmergeable: bool,
    /// The clients for which writes are logged, to this region or to all memory.
    /// None if writes cannot be logged: see [`FlatRange::unloggable`].
    pub logged: DirtyClients,
}

impl Attributes {
    /// The attributes of a region with these `switches`, which include what it
    /// inherits.
    pub(crate) fn of(access: GuestAccess, switches: Switches, logged: DirtyClients) -> Self {
        Self {
            access,
            readonly: switches.readonly,
            nonvolatile: switches.nonvolatile,
            unmergeable: switches.unmergeable,
            logged,
        }
    }
}

/// The bytes behind a run, cut to exactly the run.
///
/// The backing does not depend on [`GuestAccess`]: RAM that traps still has its host
/// memory, and private MMIO that the guest reaches directly has none.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: a listener has to decide what to map for each of them.
pub enum Backing {
    /// RAM, ROM or a ROM device, which always has a host address.
    Memory(Memory),
    /// A device's memory, mapped in the host.
    DeviceRam(HostMemory),
    /// A device's registers, which have no host address.
    PrivateMmio(PrivateMmio),
    /// Nothing: the VMM answers every access.
    Nothing,
}

impl Backing {
    /// The host memory of the bytes. `None` for private MMIO and for `Nothing`.
    pub fn host(&self) -> Option<&HostMemory> {
        match self {
            Self::Memory(memory) => Some(memory.host()),
            Self::DeviceRam(host) => Some(host),
            Self::PrivateMmio(_) | Self::Nothing => None,
        }
    }
}

impl<H> Clone for FlatRange<H> {
    fn clone(&self) -> Self {
        Self {
            region: self.region.clone(),
            ..*self
        }
    }

    /// Costs less if both are runs of the same region.
    #[inline]
    fn clone_from(&mut self, other: &Self) {
        if !Arc::ptr_eq(&self.region, &other.region) {
            self.region = other.region.clone();
        }
        self.range = other.range;
        self.id = other.id;
        self.offset = other.offset;
        self.attributes = other.attributes;
    }
}

impl<H> FlatRange<H> {
    /// The addresses.
    pub fn range(&self) -> AddrRange {
        self.range
    }

    /// The region that answers.
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// The description of the region that answers, with the caller's handle.
    pub fn region(&self) -> &Region<H> {
        &self.region
    }

    /// The offset of the first address in the region, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The offset of an address in the region. `None` if it is not in the run.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let is_in_run = self.range.contains(address);
        is_in_run.then(|| self.offset + (address - self.range.start()))
    }

    /// What the guest's loads and stores do here.
    pub fn access(&self) -> GuestAccess {
        self.attributes.access
    }

    /// How the run answers.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The bytes behind exactly this run.
    pub fn backing(&self) -> Backing {
        self.backing_of(self.range).unwrap_or(Backing::Nothing)
    }

    /// The bytes behind `range`. `None` if it is not entirely inside this run.
    pub fn backing_of(&self, range: AddrRange) -> Option<Backing> {
        if !self.range.covers(range) {
            return None;
        }
        let offset = self.offset_of(range.start())?;
        // Only trapped regions can be 2^64 bytes large, and they have no bytes.
        let size = u64::try_from(range.size()).unwrap_or(u64::MAX);
        Some(match self.region.kind() {
            Kind::Ram(memory) | Kind::Rom(memory) | Kind::RomDevice(memory) => {
                Backing::Memory(memory.slice(offset, size)?)
            }
            Kind::DeviceRam(mapping) => Backing::DeviceRam(mapping.slice(offset, size)?),
            Kind::PrivateMmio(mmio) => Backing::PrivateMmio(mmio.slice(offset, size)?),
            Kind::Container | Kind::Reservation | Kind::Mmio | Kind::Alias { .. } => {
                Backing::Nothing
            }
        })
    }

    /// Why a log of all writes lacks the writes to this run. `None` if it lacks
    /// none: the writes can be logged, or they exit to the VMM.
    pub fn unloggable(&self) -> Option<Unloggable> {
        Unloggable::of(self.region().kind()).filter(|why| why.loses_writes())
    }

    /// The same run cut to `range`. `None` if no address is in both.
    pub fn clipped(&self, range: AddrRange) -> Option<Self> {
        let range = self.range.intersect(range)?;
        Some(Self {
            offset: self.offset_of(range.start())?,
            range,
            ..self.clone()
        })
    }

    /// Whether both are the same bytes at the same addresses, whatever their
    /// attributes.
    pub fn same_bytes(&self, other: &Self) -> bool {
        // A region has one description as long as its memory is the same.
        (self.range, self.offset) == (other.range, other.offset)
            && Arc::ptr_eq(&self.region, &other.region)
    }

    /// Whether `next` continues this run, so that the two can be joined.
    pub(crate) fn continues_into(&self, next: &Self) -> bool {
        self.range.last().checked_add(1) == Some(next.range.start())
            && self.id == next.id
            && self.attributes == next.attributes
            && !self.attributes.unmergeable
            && u128::from(self.offset) + self.range.size() == u128::from(next.offset)
    }
}

/// Two runs are equal if they are the same bytes at the same addresses, with the
/// same attributes.
impl<H> PartialEq for FlatRange<H> {
    fn eq(&self, other: &Self) -> bool {
        self.same_bytes(other) && self.attributes == other.attributes
    }
}
impl<H> Eq for FlatRange<H> {}

/// Appends a run, or extends the last run if it continues it.
pub(crate) fn push<H>(runs: &mut SmallVec<[FlatRange<H>; 2]>, run: FlatRange<H>) {
    match runs.last_mut() {
        Some(last) if last.continues_into(&run) => last.range.extend_to(run.range.last()),
        _ => runs.push(run),
    }
}
