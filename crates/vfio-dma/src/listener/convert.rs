// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The listener for conversions of the crate `kvm-slots`.

use kvm_slots::convert::{
    Conversion, ConversionListener, ConversionListenerError, PageRange, PageState,
};
use memory_model::AddrRange;

use super::follow::{DmaFollowError, DmaListener, Mappings};
use super::target::extend_target;
use crate::apply::AddressSpace;
use crate::plan::{DmaChange, DmaPlanError};
use crate::range::DmaRange;

impl<S: AddressSpace, H> DmaListener<S, H> {
    /// Maps or unmaps the pages of a conversion. An undo restores the same pages,
    /// not the same mappings: it can be a part of what was prepared.
    fn convert(&self, to: PageState, change: &Conversion<'_>) -> Result<(), DmaFollowError> {
        let mappings = self.follower.get_ref();
        let reached = change.stretches.iter().filter(|s| s.host().is_some());
        let ranges = reached
            .map(|s| s.range)
            .chain(change.unbacked.iter().copied());
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for range in ranges {
            match to {
                PageState::Private => {
                    removed.extend(AddrRange::new(range.start(), range.size().into()))
                }
                PageState::Shared => mappings.target_pages(range, &mut added)?,
            }
        }
        let change = DmaChange {
            removed: &removed,
            added: &added,
        };
        self.follower
            .apply_with(|state| mappings.plan_dma_change(state, &change))
    }
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

    fn abort(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        let back = match change.to {
            PageState::Private => PageState::Shared,
            PageState::Shared => PageState::Private,
        };
        let undone = self.convert(back, change);
        if undone.is_err() {
            self.follower.require_resync();
        }
        Ok(undone?)
    }
}
