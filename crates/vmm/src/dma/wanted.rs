// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs of a view and the state of pages → what devices are to reach.

use std::fmt;
use std::sync::Arc;

use memory_model::{
    AddrRange, Backing, FileSlice, FlatRange, GuestAccess, GuestMemfdSides, HostMemory, PageSet,
};
use vfio_private::Span;
use vfio_private::dma::{DmaAccess, DmaPlace, DmaPlanError, DmaRange, Gaps, MOST_MAPPINGS};

/// Finds the file for a run of a device's memory: a dma-buf that VFIO exported.
pub type FindFile<H> = dyn Fn(&FlatRange<H>) -> Option<FileSlice> + Send + Sync;

/// Whether devices reach other devices' memory, as far as the host has it
/// mapped. What is private they do not in any case.
pub enum Peers<H> {
    /// No.
    Nothing,
    /// By the host's mapping. Containers take it (type1), iommufds do not.
    HostAddress,
    /// By a file for each run, where there is one. Iommufds take dma-bufs.
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

/// What has more than one right answer.
#[derive(Debug)]
pub struct DmaPolicy<H> {
    /// Memory that has a private side is mapped in units of so many bytes, a
    /// power of two. No conversion of whole units takes more from devices than
    /// it converts; one of less has a gap, in which devices do not reach the
    /// rest of the unit.
    ///
    /// The default is a page: no conversion has a gap, and each page is a
    /// mapping. Where a guest has more memory shared than the kernel takes
    /// mappings, larger units are needed: see [`vfio_private::dma`].
    pub unit: u64,
    /// Whether changes that have a gap are carried out, or refused.
    pub gaps: Gaps,
    /// Whether devices reach each other.
    pub peers: Peers<H>,
}

impl<H> Default for DmaPolicy<H> {
    fn default() -> Self {
        Self {
            unit: 4096,
            gaps: Gaps::default(),
            peers: Peers::Nothing,
        }
    }
}

/// What devices are to reach of `part` of a run, but for the pages in
/// `private`. It is added to `wanted`.
pub(super) fn want<H>(
    run: &FlatRange<H>,
    part: AddrRange,
    private: Option<&PageSet>,
    policy: &DmaPolicy<H>,
    wanted: &mut Vec<DmaRange>,
) -> Result<(), DmaPlanError> {
    let access = match run.access() {
        GuestAccess::ReadWrite => DmaAccess::ReadWrite,
        GuestAccess::ReadOnly | GuestAccess::ReadTrapWrite => DmaAccess::Read,
        GuestAccess::Trap => return Ok(()),
    };
    for shared in Without::new(part, private) {
        let range = match run.backing_of(shared) {
            Some(Backing::Memory(memory)) => {
                let unit = match memory.guest_memfd() {
                    None | Some((_, GuestMemfdSides::Shared)) => None,
                    Some(_) => Some(policy.unit),
                };
                at_host(shared, access, memory.host()).and_then(|range| in_units(range, unit))
            }
            Some(Backing::DeviceRam(memory)) => match &policy.peers {
                Peers::Nothing => None,
                Peers::HostAddress => at_host(shared, access, &memory),
                Peers::Files(find) => of_file(run, shared, access, &**find),
            },
            Some(Backing::PrivateMmio(_) | Backing::Nothing) | None => None,
        };
        wanted.extend(range);
        let needed = u64::try_from(wanted.len()).unwrap_or(u64::MAX);
        if needed > MOST_MAPPINGS {
            let limit = MOST_MAPPINGS;
            return Err(DmaPlanError::TooMany { needed, limit });
        }
    }
    Ok(())
}

fn at_host(range: AddrRange, access: DmaAccess, memory: &HostMemory) -> Option<DmaRange> {
    let owner = memory.owner().clone();
    let place = DmaPlace::Host {
        address: memory.address(),
    };
    DmaRange::new(span(range)?, access, place, owner).ok()
}

/// A unit that is none counts as a page, the safe choice.
fn in_units(range: DmaRange, unit: Option<u64>) -> Option<DmaRange> {
    match unit {
        None => Some(range),
        Some(unit) if unit.is_power_of_two() => range.in_units_of(unit).ok(),
        Some(_) => range.in_units_of(4096).ok(),
    }
}

fn of_file<H>(
    run: &FlatRange<H>,
    range: AddrRange,
    access: DmaAccess,
    find: &FindFile<H>,
) -> Option<DmaRange> {
    let file = find(&run.clipped(range)?)?;
    let place = DmaPlace::File {
        fd: file.fd(),
        offset: file.offset(),
    };
    DmaRange::new(span(range)?, access, place, file.owner().clone()).ok()
}

/// The same addresses as IOVAs. The very last one has none: what has it is told
/// to have a part of a page left.
pub(super) fn span(range: AddrRange) -> Option<Span> {
    let size = range.last().saturating_add(1) - range.start();
    Span::new(range.start(), size).ok()
}

/// The parts of a range that are not in a set of pages, by address.
struct Without<I> {
    rest: Option<AddrRange>,
    holes: I,
}

impl<'a> Without<Box<dyn Iterator<Item = AddrRange> + 'a>> {
    fn new(range: AddrRange, holes: Option<&'a PageSet>) -> Self {
        let holes = holes.map(|set| set.within(range));
        Self {
            rest: Some(range),
            holes: Box::new(holes.into_iter().flatten()),
        }
    }
}

impl<I: Iterator<Item = AddrRange>> Iterator for Without<I> {
    type Item = AddrRange;

    fn next(&mut self) -> Option<AddrRange> {
        loop {
            let rest = self.rest?;
            let Some(hole) = self.holes.next() else {
                self.rest = None;
                return Some(rest);
            };
            let above = hole.last().checked_add(1);
            self.rest = above.and_then(|from| AddrRange::from_bounds(from, rest.last()));
            let below = hole.start().checked_sub(1);
            let below = below.and_then(|last| AddrRange::from_bounds(rest.start(), last));
            if below.is_some() {
                return below;
            }
        }
    }
}
