// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Computes the DMA ranges that devices should reach from a view and the state of its pages.

use std::fmt;
use std::sync::Arc;

use guest_ranges::{PAGE_SIZE, gaps};
use memory_model::{
    AddrRange, Backing, FileSlice, FlatRange, GuestAccess, GuestMemfdSides, PageSet,
};

use crate::plan::{DmaPlanError, Gaps, MOST_MAPPINGS, check_limit};
use crate::range::{DmaAccess, DmaRange};

/// Finds the file for a run of a device's memory: a dma-buf that VFIO exported. Its slice starts with
/// the run's first byte; what is longer than the run is ignored, and a shorter one counts as none.
pub type FindFile<H> = dyn Fn(&FlatRange<H>) -> Option<FileSlice> + Send + Sync;

/// Whether devices reach the memory of other devices that the host has mapped.
/// They never reach private memory.
#[non_exhaustive]
pub enum Peers<H> {
    /// They do not.
    Nothing,
    /// By the host's mapping. Containers (type1) support it, iommufds do not.
    HostAddress,
    /// By a file for each run that has one. Iommufds support dma-bufs.
    Files(Arc<FindFile<H>>),
}

impl<H> fmt::Debug for Peers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::HostAddress => "HostAddress",
            Self::Files(_) => "Files",
        })
    }
}

/// The caller's choices.
#[derive(Debug)]
#[non_exhaustive]
pub struct DmaPolicy<H> {
    /// The size in bytes of the units that memory with a private side is mapped
    /// in, a power of two. A conversion of whole units has no gap. A smaller one
    /// does: devices cannot access the rest of the unit for a moment.
    ///
    /// The default is [`PAGE_SIZE`], the unit of guest page state, so that no conversion
    /// has a gap and each page is a mapping. A unit smaller than the IOMMU's page counts
    /// as a page. If a guest shares more pages than the kernel allows mappings,
    /// choose larger units: see [the crate's page](crate).
    ///
    /// An IOMMU page with several guest pages is mapped while all of them are shared.
    /// While one is private, devices cannot access the others, which the plan lists as
    /// [left out](crate::DmaPlan::left_out).
    pub unit: u64,
    /// Whether changes that need a gap are carried out or refused. This includes a
    /// conversion that makes a part of a mapped IOMMU page private. The undo of a
    /// conversion may always have gaps.
    pub gaps: Gaps,
    /// Whether devices reach each other's memory.
    pub peers: Peers<H>,
}

impl<H> Default for DmaPolicy<H> {
    fn default() -> Self {
        Self {
            unit: PAGE_SIZE,
            gaps: Gaps::default(),
            peers: Peers::Nothing,
        }
    }
}

impl<H> DmaPolicy<H> {
    /// The same policy with another size of units.
    #[must_use]
    pub fn with_unit(self, unit: u64) -> Self {
        Self { unit, ..self }
    }

    /// The same policy with another choice for changes that have a gap.
    #[must_use]
    pub fn with_gaps(self, gaps: Gaps) -> Self {
        Self { gaps, ..self }
    }

    /// The same policy with another choice for the memory of other devices.
    #[must_use]
    pub fn with_peers(self, peers: Peers<H>) -> Self {
        Self { peers, ..self }
    }
}

/// Adds to `target` what devices should reach of `part` of a run, without the
/// pages in `private`.
pub(super) fn extend_target<H>(
    run: &FlatRange<H>,
    part: AddrRange,
    private: Option<&PageSet>,
    policy: &DmaPolicy<H>,
    target: &mut Vec<DmaRange>,
) -> Result<(), DmaPlanError> {
    let access = match run.access() {
        GuestAccess::ReadWrite => DmaAccess::ReadWrite,
        GuestAccess::ReadOnly | GuestAccess::ReadTrapWrite => DmaAccess::Read,
        GuestAccess::Trap => return Ok(()),
    };
    let private = private.into_iter().flat_map(|set| set.within(part));
    for shared in gaps(part, private) {
        let range = match run.backing_of(shared) {
            Some(Backing::Memory(memory)) => {
                let unit = match memory.guest_memfd() {
                    None | Some((_, GuestMemfdSides::Shared)) => None,
                    Some(_) => Some(policy.unit),
                };
                let range = DmaRange::new(shared.start(), memory.host().clone(), access);
                range.ok().and_then(|range| in_units(range, unit))
            }
            Some(Backing::DeviceRam(memory)) => match &policy.peers {
                Peers::Nothing => None,
                Peers::HostAddress => DmaRange::new(shared.start(), memory, access).ok(),
                Peers::Files(find) => of_file(run, shared, access, &**find),
            },
            Some(Backing::PrivateMmio(_) | Backing::Nothing) | None => None,
        };
        target.extend(range);
        let needed = u64::try_from(target.len()).unwrap_or(u64::MAX);
        check_limit(needed, MOST_MAPPINGS)?;
    }
    Ok(())
}

/// An invalid unit counts as the smallest, the safe choice.
fn in_units(range: DmaRange, unit: Option<u64>) -> Option<DmaRange> {
    match unit {
        None => Some(range),
        Some(unit) if unit.is_power_of_two() => range.in_units_of(unit).ok(),
        Some(_) => range.in_units_of(PAGE_SIZE).ok(),
    }
}

fn of_file<H>(
    run: &FlatRange<H>,
    range: AddrRange,
    access: DmaAccess,
    find: &FindFile<H>,
) -> Option<DmaRange> {
    let file = find(&run.clipped(range)?)?.slice(0, range.size_u64()?)?;
    DmaRange::new(range.start(), file, access).ok()
}
