// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The flat view: the region that answers at each address.

pub(crate) mod flat_range;
pub(crate) mod pool;

use guest_ranges::AddrRange;

use crate::logging::Unloggable;
use crate::runs::{Ranges, Runs};
use crate::view::flat_range::FlatRange;

/// The flat view of an address space: sorted runs, without overlap, of the addresses
/// that a region answers. A view never changes. Views of a space share the parts that
/// they have in common.
#[derive(Debug)]
pub struct FlatView<H> {
    runs: Runs<H>,
}

impl<H> FlatView<H> {
    pub(crate) fn empty() -> Self {
        Self::of(Runs::new())
    }

    pub(crate) fn of(runs: Runs<H>) -> Self {
        Self { runs }
    }

    pub(crate) fn runs(&self) -> &Runs<H> {
        &self.runs
    }

    /// The number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no region answers anywhere.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All runs, by address.
    pub fn ranges(&self) -> Ranges<'_, H> {
        self.runs.from(0)
    }

    /// The runs whose writes a log of all writes lacks, and why. The cost is
    /// proportional to the number of runs.
    pub fn unloggable(&self) -> impl Iterator<Item = (&FlatRange<H>, Unloggable)> {
        self.ranges()
            .filter_map(|run| Some((run, run.unloggable()?)))
    }

    /// The run at `address`. `None` if no region answers there.
    #[inline]
    pub fn find(&self, address: u64) -> Option<&FlatRange<H>> {
        let run = self.runs.near(address)?;
        run.range.contains(address).then_some(run)
    }

    /// The runs that share an address with `range`, the lowest first. They are not
    /// cut to `range`.
    pub fn intersecting(
        &self,
        range: AddrRange,
    ) -> impl Iterator<Item = &FlatRange<H>> + Clone + use<'_, H> {
        let from = self.runs.from(range.start());
        from.take_while(move |run| run.range.start() <= range.last())
    }

    /// The lowest run that shares an address with `range`, cut to `range`. `None` if
    /// no region answers in `range`. The addresses of `range` below the run are a
    /// hole.
    ///
    /// ```
    /// use memory_model::{AddrRange, MemoryModel, Region};
    ///
    /// let mut model: MemoryModel = MemoryModel::new();
    /// let mut t = model.transaction();
    /// let memory = t.add(Region::container("memory", 1 << 64))?;
    /// let uart = t.add(Region::mmio("uart", 0x100))?;
    /// t.place(uart, memory, 0x1000, 0)?;
    /// t.commit()?;
    /// let space = model.add_space("memory", memory)?;
    ///
    /// let range = |start, size| AddrRange::new(start, size).unwrap();
    /// let found = model.view(space).find_in(range(0x10f0, 0x1000)).unwrap();
    /// assert_eq!(found.range(), range(0x10f0, 0x10));
    /// assert_eq!((found.id(), found.offset()), (uart, 0xf0));
    /// assert!(model.view(space).find_in(range(0, 0x1000)).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn find_in(&self, range: AddrRange) -> Option<FlatRange<H>> {
        self.intersecting(range).next()?.clipped(range)
    }
}
