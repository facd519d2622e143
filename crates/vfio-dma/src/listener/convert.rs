// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The listener for conversions of the crate `kvm-slots`.

use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, PageRange, PageState, Stretch,
};
use memory_model::AddrRange;

use super::follow::{DmaFollowError, DmaListener, Mappings};
use super::target::extend_target;
use crate::apply::AddressSpace;
use crate::plan::{DmaChange, DmaPlanError};
use crate::range::{DmaMemory, DmaRange};
use crate::table::DmaTable;

impl<S: AddressSpace, H> DmaListener<S, H> {
    /// Maps or unmaps the pages of a conversion. An undo restores the same pages,
    /// not the same mappings: it can be a part of what was prepared.
    fn convert(&self, to: PageState, change: &Conversion<'_>) -> Result<(), DmaFollowError> {
        let mappings = self.follower.get_ref();
        // A rollback that failed can have left mappings of these pages at other IOVAs.
        let has_leftovers = self.follower.needs_resync();
        let ranges = change.stretches.iter().map(|stretch| stretch.range);
        let ranges = ranges.chain(change.unbacked.iter().copied());
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for range in ranges {
            match to {
                PageState::Private => removed.push(range.into()),
                PageState::Shared => mappings.target_pages(range, &mut added)?,
            }
        }
        self.follower.apply_with(|state| {
            if has_leftovers && to == PageState::Private {
                let memory = change.stretches.iter().filter_map(host);
                removed.extend(memory.flat_map(|memory| iovas(state.table(), memory)));
            }
            let change = DmaChange {
                removed: &removed,
                added: &added,
            };
            mappings.plan_dma_change(state, &change)
        })
    }
}

/// The host addresses of a stretch.
fn host(stretch: &Stretch) -> Option<AddrRange> {
    AddrRange::new(stretch.host()?, stretch.range.size().into())
}

/// The IOVAs that lead to this memory of the host.
fn iovas(table: &DmaTable, memory: AddrRange) -> Vec<AddrRange> {
    let mappings = table.mappings().filter_map(|mapping| {
        let DmaMemory::Host(mapped) = mapping.memory() else {
            return None;
        };
        let part = mapped.range().intersect(memory)?;
        let offset = part.start() - mapped.address();
        AddrRange::new(mapping.iova().start() + offset, part.size())
    });
    mappings.collect()
}

impl<S, H> Mappings<S, H> {
    /// The view knows more than a conversion: which memory is read-only, and who
    /// owns it. It is the published view, because no transaction is in progress.
    fn target_pages(
        &self,
        pages: PageRange,
        target: &mut Vec<DmaRange>,
    ) -> Result<(), DmaPlanError> {
        let Some(range) = AddrRange::from_bounds(pages.start(), pages.end() - 1) else {
            return Ok(());
        };
        let view = self.reader.view();
        for run in view.intersecting(range) {
            if let Some(part) = run.range().intersect(range) {
                extend_target(run, part, None, &self.policy, target)?;
            }
        }
        Ok(())
    }
}

impl<S: AddressSpace + Send + Sync, H: Send + Sync> ConversionListener for DmaListener<S, H> {
    fn name(&self) -> &str {
        "DMA mappings"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(self.convert(change.to, change)?)
    }

    fn rolled_back(&self, error: &ConversionListenerError) -> bool {
        match error.downcast_ref() {
            Some(DmaFollowError::Plan(_)) => true,
            Some(DmaFollowError::Apply(error)) => error.not_undone.is_empty(),
            Some(DmaFollowError::NotUndone(_)) | None => false,
        }
    }

    fn abort(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        let undone = self.convert(change.to.other(), change);
        if undone.is_err() {
            self.follower.require_resync();
        }
        Ok(undone?)
    }

    fn must_resync(&self) {
        self.follower.require_resync();
    }
}
