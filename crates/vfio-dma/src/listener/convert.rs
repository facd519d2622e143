// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The listener for conversions of the crate `kvm-slots`.

use guest_ranges::RangeSet;
use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, PageState, Stretch,
};
use memory_model::AddrRange;

use super::error::DmaFollowError;
use super::follow::{DmaListener, Mappings, State};
use super::target::extend_target;
use super::{pages, record};
use crate::apply::AddressSpace;
use crate::plan::{DmaChange, DmaPlanError, Gaps};
use crate::range::{DmaMemory, DmaRange};
use crate::table::DmaTable;

impl<S: AddressSpace, H> DmaListener<S, H> {
    /// Maps or unmaps the pages of a conversion. An undo restores the same pages,
    /// not the same mappings: it can be a part of what was prepared.
    fn convert(
        &self,
        to: PageState,
        change: &Conversion<'_>,
        gaps: Gaps,
    ) -> Result<(), DmaFollowError> {
        let mappings = self.follower.get_ref();
        let needs_resync = self.follower.needs_resync();
        let ranges = pages(change);
        let converted = self.follower.apply_with(|state| {
            state.record(&ranges, to);
            let (mut removed, mut added) = (Vec::new(), Vec::new());
            match to {
                PageState::Shared => added = mappings.target_pages(state, &ranges, needs_resync)?,
                PageState::Private => removed.extend_from_slice(&ranges),
            }
            // A rollback that failed can have left mappings of these pages at other IOVAs.
            if needs_resync && to == PageState::Private {
                let memory = change.stretches.iter().filter_map(host).collect();
                removed.extend(iovas(&state.table, &memory));
            }
            let change = DmaChange {
                removed: &removed,
                added: &added,
            };
            mappings.plan_dma_change(state, &change, gaps)
        });
        if converted.is_err() {
            self.follower
                .with_state(|state| state.record(&ranges, to.other()));
        }
        converted
    }
}

impl State {
    /// Records the state of pages. If the undo of a conversion fails or panics, the
    /// record may be wrong until the resync that is then needed.
    fn record(&mut self, ranges: &[AddrRange], to: PageState) {
        if let Some(private) = &mut self.private {
            record(private, ranges, to);
        }
    }
}

/// The host addresses of a stretch.
fn host(stretch: &Stretch) -> Option<AddrRange> {
    AddrRange::new(stretch.host()?, stretch.range.size().into())
}

/// The IOVAs that lead to this memory of the host. The cost is one search in the memory
/// for each mapping, however many stretches it is.
fn iovas(table: &DmaTable, memory: &RangeSet) -> impl Iterator<Item = AddrRange> {
    let mappings = table
        .mappings()
        .filter_map(|mapping| match mapping.memory() {
            DmaMemory::Host(mapped) => Some((mapping.iova().start(), mapped.range())),
            DmaMemory::File(_) => None,
        });
    mappings.flat_map(|(iova, mapped)| {
        let parts = memory.within(mapped);
        parts.filter_map(move |part| {
            AddrRange::new(iova + (part.start() - mapped.start()), part.size())
        })
    })
}

impl<S, H> Mappings<S, H> {
    /// What devices should reach of pages that have become shared, and of the other
    /// guest pages in the same IOMMU pages.
    ///
    /// The view knows more than a conversion: which memory is read-only, and who
    /// owns it. It is the published view, because no transaction is in progress.
    fn target_pages(
        &self,
        state: &State,
        shared: &[AddrRange],
        needs_resync: bool,
    ) -> Result<Vec<DmaRange>, DmaPlanError> {
        let private = state.private.as_ref().filter(|_| !needs_resync);
        let shared = shared.iter().map(|range| match private {
            Some(_) => state.limits.pages_around(*range),
            // The state of no other page is known.
            None => *range,
        });
        let shared: RangeSet = shared.collect();
        let (view, mut target) = (self.reader.view(), Vec::new());
        for range in shared.iter() {
            for run in view.intersecting(range) {
                if let Some(part) = run.range().intersect(range) {
                    extend_target(run, part, private, &self.policy, &mut target)?;
                }
            }
        }
        Ok(target)
    }
}

impl<S: AddressSpace + Send + Sync, H: Send + Sync> ConversionListener for DmaListener<S, H> {
    fn name(&self) -> &str {
        "DMA mappings"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        let gaps = self.follower.get_ref().policy.gaps;
        Ok(self.convert(change.to, change, gaps)?)
    }

    fn rolled_back(&self, error: &ConversionListenerError) -> bool {
        let error = error.downcast_ref();
        error.is_some_and(DmaFollowError::rolled_back)
    }

    fn abort(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        // An IOMMU page that this change has completed is unmapped again as a whole.
        let undone = self.convert(change.to.other(), change, Gaps::Allow);
        if undone.is_err() {
            self.follower.require_resync();
        }
        Ok(undone?)
    }

    fn must_resync(&self) {
        self.follower.require_resync();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::sync::Arc;

    use guest_ranges::{FileSlice, HostMemory};
    use proptest::prelude::*;

    use super::*;
    use crate::range::DmaAccess;

    /// The bytes of host memory. Mappings lead to parts of it, which may overlap.
    const SIZE: u64 = 48;

    /// The first and the number of at most so many bytes of the memory.
    fn part(most: u64) -> impl Strategy<Value = (u64, u64)> {
        (0..SIZE, 1..=most).prop_map(|(first, size)| (first, size.min(SIZE - first)))
    }

    /// Where a mapping is, by its number. There is a gap between two.
    fn iova(number: usize) -> u64 {
        u64::try_from(number).unwrap() * 2 * SIZE
    }

    fn table(host: &HostMemory, mappings: &[(u64, u64)]) -> DmaTable {
        let mut table = DmaTable::new();
        let mut insert = |iova, memory: DmaMemory| {
            table.insert(DmaRange::new(iova, memory, DmaAccess::Read).unwrap());
        };
        for (number, &(first, size)) in mappings.iter().enumerate() {
            insert(iova(number), host.slice(first, size).unwrap().into());
        }
        // No host address leads to a file.
        let file = Arc::new(File::open("/dev/null").unwrap());
        let file = FileSlice::new(file, host.address(), SIZE).unwrap();
        insert(iova(mappings.len()), file.into());
        table
    }

    proptest! {
        #[test]
        fn the_iovas_of_memory_are_those_that_each_byte_has(
            mappings in prop::collection::vec(part(SIZE), 0..6),
            memory in prop::collection::vec(part(8), 0..8),
        ) {
            let host = HostMemory::placeholder(SIZE).unwrap();
            let is_in = |byte: u64| {
                memory.iter().any(|&(first, size)| (first..first + size).contains(&byte))
            };
            let slowly: BTreeSet<u64> = mappings
                .iter()
                .enumerate()
                .flat_map(|(number, &(first, size))| {
                    let bytes = (0..size).filter(move |at| is_in(first + at));
                    bytes.map(move |at| iova(number) + at)
                })
                .collect();
            let ranges = memory.iter().filter_map(|&(first, size)| host.slice(first, size));
            let ranges: RangeSet = ranges.map(|part| part.range()).collect();
            let found: Vec<u64> = iovas(&table(&host, &mappings), &ranges)
                .flat_map(|part| part.start()..=part.last())
                .collect();
            prop_assert_eq!(found, slowly.into_iter().collect::<Vec<u64>>());
        }
    }
}
