// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What devices reach by DMA, and a check that they never reach a page that becomes
//! private.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_slots::convert::{Conversion, ConversionListener, ConversionListenerError, PageState};
use memory_model::AddrRange;
use vfio_dma::AddressSpace;
use vfio_dma::listener::DmaListener;
use vfio_private::device::Iommu;

use super::bus::Handle;

/// The DMA mappings of assigned devices.
pub type GuestDma<S = Iommu> = DmaListener<S, Handle>;

/// Counts conversions, and refuses one that would leave devices with a private page.
///
/// It is a listener after the DMA mappings. Before pages become private, listeners
/// prepare first and KVM changes the pages' attributes afterwards. So a page that is
/// still mapped when this listener prepares would be reached by devices after KVM has
/// made it private.
#[derive(Debug)]
pub struct DmaCheck<S: AddressSpace = Iommu> {
    dma: Arc<GuestDma<S>>,
    to_private: AtomicU64,
    to_shared: AtomicU64,
}

/// Devices still reach a page that is to become private.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("devices still reach {mapped}, a part of which is to become private")]
pub struct StillMapped {
    /// The DMA mapping.
    pub mapped: AddrRange,
}

impl<S: AddressSpace> DmaCheck<S> {
    /// A check of these mappings.
    pub fn new(dma: Arc<GuestDma<S>>) -> Self {
        Self {
            dma,
            to_private: AtomicU64::new(0),
            to_shared: AtomicU64::new(0),
        }
    }

    /// How many bytes of memory have become private, and how many shared. Private MMIO
    /// does not count.
    pub fn converted(&self) -> (u64, u64) {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        (load(&self.to_private), load(&self.to_shared))
    }

    /// How many bytes devices reach now.
    pub fn mapped(&self) -> u64 {
        let table = self.dma.table();
        table.mappings().map(|mapping| mapping.size()).sum()
    }
}

impl<S: AddressSpace + Send + Sync> ConversionListener for DmaCheck<S> {
    fn name(&self) -> &str {
        "DMA check"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        if change.to == PageState::Shared {
            return Ok(());
        }
        let table = self.dma.table();
        let memory = change.stretches.iter().filter(|s| s.host().is_some());
        for stretch in memory {
            if let Some(mapping) = table.touching(stretch.range.into()).next() {
                let mapped = mapping.iova();
                return Err(StillMapped { mapped }.into());
            }
        }
        Ok(())
    }

    fn commit(&self, change: &Conversion<'_>) {
        let memory = change.stretches.iter().filter(|s| s.host().is_some());
        let bytes: u64 = memory.map(|stretch| stretch.range.size()).sum();
        let count = match change.to {
            PageState::Private => &self.to_private,
            PageState::Shared => &self.to_shared,
        };
        count.fetch_add(bytes, Ordering::Relaxed);
    }
}
