// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The responder of an access that exits to the VMM, by the direction of the access.

use crate::region::Kind;
use crate::view::flat_range::FlatRange;

/// Whether the guest loads or stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessDirection {
    /// The guest loads.
    Read,
    /// The guest stores.
    Write,
}

/// Who answers an access, or a part of one, that exits to the VMM.
#[derive(Debug)]
// Exhaustive: a VMM has to decide what the guest gets from each of them.
pub enum Responder<'a, H> {
    /// An emulated device: the run traps the access.
    Device {
        /// The run of the device's region.
        run: &'a FlatRange<H>,
        /// The offset in the region of the first byte.
        offset: u64,
    },
    /// Memory that the guest accesses directly. The caller makes the access on the
    /// host mapping of the memory. The region's [handle](crate::Region::handle) can
    /// hold the mapping. [`AccessPart::host`](crate::AccessPart::host) returns its
    /// address.
    Memory {
        /// The run of the memory's region.
        run: &'a FlatRange<H>,
        /// The offset in the region of the first byte.
        offset: u64,
    },
    /// No one: the memory of this run is read-only for the guest. The store is
    /// dropped.
    ReadOnly(&'a FlatRange<H>),
    /// No one: this run is private MMIO, which has no host address.
    PrivateMmio(&'a FlatRange<H>),
    /// No one: the addresses are reserved.
    Reservation(&'a FlatRange<H>),
    /// No one: no region is there.
    Nothing,
}

impl<'a, H> Responder<'a, H> {
    /// The responder at `address`, where `run` is.
    #[inline]
    pub(crate) fn of(
        run: Option<&'a FlatRange<H>>,
        address: u64,
        direction: AccessDirection,
    ) -> Self {
        let Some((run, offset)) = run.and_then(|run| Some((run, run.offset_of(address)?))) else {
            return Self::Nothing;
        };
        let access = run.access();
        let direct = match direction {
            AccessDirection::Read => access.reads_directly(),
            AccessDirection::Write => access.writes_directly(),
        };
        match run.region().kind() {
            Kind::Mmio => Self::Device { run, offset },
            Kind::RomDevice(_) if !direct => Self::Device { run, offset },
            Kind::Ram(_) | Kind::Rom(_) | Kind::DeviceRam(_) | Kind::PrivateMmio(_) if !direct => {
                Self::ReadOnly(run)
            }
            Kind::Ram(_) | Kind::Rom(_) | Kind::RomDevice(_) | Kind::DeviceRam(_) => {
                Self::Memory { run, offset }
            }
            Kind::PrivateMmio(_) => Self::PrivateMmio(run),
            Kind::Reservation => Self::Reservation(run),
            // No run shows one of these.
            Kind::Container | Kind::Alias { .. } => Self::Nothing,
        }
    }

    /// The run at the addresses; `None` where no region is.
    pub fn run(self) -> Option<&'a FlatRange<H>> {
        match self {
            Self::Device { run, .. }
            | Self::Memory { run, .. }
            | Self::ReadOnly(run)
            | Self::PrivateMmio(run)
            | Self::Reservation(run) => Some(run),
            Self::Nothing => None,
        }
    }
}

impl<H> Clone for Responder<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H> Copy for Responder<'_, H> {}
